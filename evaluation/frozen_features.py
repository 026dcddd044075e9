"""What frozen towers give for a split, computed once instead of in every epoch.

A tower that nothing trains and that no emotion enters gives the same features for an item each time: those of all texts
and of all frames are kept, before the trained projections, and joined to the batches by index.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import torch

from dataloaders.data_dataloaders import meme_loader
from dataloaders.meme_dataset import SplitData
from dataloaders.token_table import TokenTable, pad
from engine import distributed
from evaluation.feature_store import FeatureStore
from modules.ief_model import IEF
from util import progress_bar


def frozen_towers(model: IEF) -> list[str]:
    """Which of `text` and `image` have no trainable parameter."""
    return [tower for tower in ("text", "image") if model.backbone.is_frozen(tower)]


class TextStore(NamedTuple):
    """Features of texts. They lie in another order: those of text i at `place[i]`."""

    store: FeatureStore
    place: np.ndarray

    def read(self, kind: str, texts: np.ndarray, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The features of texts by index: {"<kind>_sentence": (N, w)} and, where kept, {"<kind>_words": (N, L, w)}."""
        found = self.store.read(self.place[texts], torch.device("cpu"), dtype)
        return {f"{kind}_{name.removeprefix('token_')}": tensor for name, tensor in found.items()}


@dataclasses.dataclass
class FrozenFeatures:
    """A split's features of the frozen towers, whole on every process; None for what is not frozen or not read.

    data: the split, without the images where no frame is to be encoded again. dtype: of what is joined to a batch.
    queries, captions: `sentence` and, where they are read, `token_words` of each text. frames: `token_features` of each
    meme's frames, tokens_per_frame a frame. Above a limit they lie on disk, in fp32: a run's numbers do not depend on
    where they are.
    """

    data: SplitData
    dtype: torch.dtype
    tokens_per_frame: int = 1
    queries: TextStore | None = None
    captions: TextStore | None = None
    frames: FeatureStore | None = None
    in_memory: int = 0  # bytes, with those of the splits before

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: IEF,
        data: SplitData,
        args: argparse.Namespace,
        device: torch.device,
        progress: bool = True,
        in_memory: int = 0,
        frozen: Collection[str] | None = None,
    ) -> FrozenFeatures:
        """Compute what the frozen towers of `model` give. The processes share the work, and each gets all of it.

        in_memory: bytes that other splits' features take already, of --feature_cache_gb for all together. frozen: which
        of `text` and `image` no stage of the run trains; None asks the parameters as they are now.
        """
        frozen = frozen_towers(model) if frozen is None else frozen
        features = cls(data, model.backbone.logit_scale.dtype, in_memory=in_memory)
        if "text" in frozen:
            features.queries = _text_store(features, model, data.queries, model.reads_words, args, device, progress)
            if data.captions is not None and len(data.captions):
                draws = args.caption_augmentation and data.split.name == "train"  # captions that are queries too
                words = model.reads_words and draws
                features.captions = _text_store(features, model, data.captions, words, args, device, progress)
        if data.images is not None and model.emotion_fusion is None and "image" in frozen:
            features.tokens_per_frame = model.backbone.patches if model.wiring.visual_tokens == "patch" else 1
            features.frames = _frame_store(features, model, data, args, device, progress)
            features.data = dataclasses.replace(data, images=None)  # the loaders have nothing left to decode
        return features

    def join(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch of memes, queries or records on the CPU -> the same with the features that are known of its items.

        `query_sentence` (B, w), `caption_sentence` (N, w) of the N captions there are, in their order (of one that
        means nothing where there are none), `frame_features` (ΣF, V / F, v) and `frame_mask` (B, F); `query_words`
        (B, L, w), `caption_words` (N, L, w) where they are kept.
        """
        batch = dict(batch)
        if self.queries is not None and "query_ids" in batch:
            batch |= self.queries.read("query", batch["topic"].numpy(), self.dtype)
        if self.captions is not None and "caption_ids" in batch:
            offsets = self.data.caption_offsets
            assert offsets is not None
            own = [np.arange(offsets[meme], offsets[meme + 1]) for meme in batch["meme"].tolist()]
            indices = np.concatenate(own)
            # without any, the model masks what stands for them
            indices = indices if len(indices) else np.zeros(1, np.int64)
            batch |= self.captions.read("caption", indices, self.dtype)
        if self.frames is not None and "meme" in batch:
            memes = batch["meme"].numpy()
            counts = torch.from_numpy(self.frames.lengths["token"][memes] // self.tokens_per_frame)
            tokens = self.frames.read(memes, torch.device("cpu"), self.dtype)["token_features"]
            frames = tokens.unflatten(1, (-1, self.tokens_per_frame))
            batch["frame_mask"] = torch.arange(int(counts.max())) < counts[:, None]
            batch["frame_features"] = frames[batch["frame_mask"]]
        return batch

    def lines(self) -> Iterator[str]:
        """What was computed once, for the log."""
        texts = {"queries": self.queries, "captions": self.captions}
        stores = {kind: of_texts.store for kind, of_texts in texts.items() if of_texts is not None}
        stores |= {"memes' images": self.frames} if self.frames is not None else {}
        for kind, store in stores.items():
            where = "in memory" if store.folder is None else f"on disk ({store.folder.name})"
            size = f"{sum(array.nbytes for array in store.arrays.values()) / 2**20:.1f} MiB"
            yield f"{self.data.split.name}: {len(store):,} {kind} encoded once by the frozen tower, {size} {where}"


def _text_store(
    features: FrozenFeatures,
    model: IEF,
    table: TokenTable,
    words: bool,
    args: argparse.Namespace,
    device: torch.device,
    progress: bool,
) -> TextStore:
    """The text tower's features of all texts; they are encoded by length, the longest first."""
    order = np.argsort(-np.diff(table.offsets), kind="stable")
    store = _new_store(features, args)
    rounds = distributed.shares(len(table), args.batch_size_val)
    for own, real in progress_bar(rounds, desc="frozen texts", unit="batch", leave=False, disable=not progress):
        ids, mask = (tensor.to(device) for tensor in pad([table[text] for text in order[own]]))
        token_words, sentence = model.text_features(ids, mask)
        found = {"sentence": sentence, "valid": mask.sum(dim=1)}
        _append(store, found | {"token_words": token_words} if words else found, real)
    _finish(features, store)
    return TextStore(store, np.argsort(order))


def _frame_store(
    features: FrozenFeatures,
    model: IEF,
    data: SplitData,
    args: argparse.Namespace,
    device: torch.device,
    progress: bool,
) -> FeatureStore:
    """The image tower's features of all memes' frames, in their order."""
    store = _new_store(features, args)
    rounds = distributed.shares(len(data.split.memes), args.batch_size_val)
    loader = meme_loader(
        args, dataclasses.replace(data, captions=None), [own for own, _ in rounds], device.type == "cuda"
    )
    bar = progress_bar(
        loader, desc=f"frozen images of {data.split.name}", unit="batch", leave=False, disable=not progress
    )
    for (_, real), batch in zip(rounds, bar, strict=True):
        frame_mask = batch["frame_mask"].to(device)
        of_frames = model.frame_features(batch["pixels"].to(device), frame_mask, batch["emotions"].to(device))
        tokens = of_frames.new_zeros(*frame_mask.shape, *of_frames.shape[1:])
        tokens[frame_mask] = of_frames
        valid = frame_mask.sum(dim=1) * of_frames.shape[1]
        _append(store, {"token_features": tokens.flatten(1, 2), "valid": valid}, real)
    _finish(features, store)
    return store


def _new_store(features: FrozenFeatures, args: argparse.Namespace) -> FeatureStore:
    """A store that may take of memory what is left of --feature_cache_gb."""
    left = max(0.0, args.feature_cache_gb - features.in_memory / 2**30)
    return FeatureStore(left, args.output_dir, np.float32)


def _finish(features: FrozenFeatures, store: FeatureStore) -> None:
    store.finish()
    features.in_memory += 0 if store.folder is not None else store.bytes


def _append(store: FeatureStore, features: dict[str, torch.Tensor], real: int) -> None:
    """Put the features of all processes into this process's store; `real`: how many are no copies."""
    gathered = {name: tensor[:real] for name, tensor in distributed.gather(features).items()}
    store.append(gathered, {"token": gathered.pop("valid")})
