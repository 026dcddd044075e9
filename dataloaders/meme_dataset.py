"""Records -> samples -> batches. All texts and emotion words are indices before the first sample is asked for.

A batch is a dict; B rows, L words, K captions, F frames, E persons:

    query_ids      (B, L) int64       query_mask    (B, L) bool      start and end tokens included
    topic          (B,) int64         the query's index in its split
    pixels         (ΣF, 3, H, W) uint8, the real frames of all memes, one after the other
    frame_mask     (B, F) bool        F the most frames of a meme in the batch
    emotions       (B, E) int64       vocabulary indices, -1 is padding
    caption_ids    (B, K, L) int64    caption_mask  (B, K, L) bool   an absent caption is all False
    meme           (B,) int64         the meme's index in its split
    drawn_caption  (B,) int64         with caption augmentation: the caption that is a further query, or -1
    row_key        (B,) int64         what the model draws for the row in training (dropout) follows from it alone

A batch of queries holds the first three, a batch of memes the others but the last two, a batch of records all. What a
setting does not read (pixels under `--branches qc`, captions under `qi` without co-attention) is absent.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from dataloaders.meme_images import MemeImages, stack_frames
from dataloaders.meme_records import Split
from dataloaders.token_table import TokenTable, pad, pad_groups


@dataclasses.dataclass
class SplitData:
    """A split, tokenised: what datasets read. None stands for what the setting does not read."""

    split: Split
    queries: TokenTable
    captions: TokenTable | None  # of all memes, one after the other
    caption_offsets: np.ndarray | None  # (M + 1,): meme m's captions are [m] .. [m + 1]
    emotions: list[list[int]]
    images: MemeImages | None

    def captions_of(self, meme: int) -> list[np.ndarray]:
        """Token ids (L,) of each of a meme's captions; only where the setting reads captions."""
        assert self.captions is not None and self.caption_offsets is not None
        return [self.captions[i] for i in range(self.caption_offsets[meme], self.caption_offsets[meme + 1])]


class Sample(TypedDict, total=False):
    """A meme or a record, before `collate`; what a setting does not read is absent, as in a batch."""

    meme: int
    emotions: list[int]
    frames: torch.Tensor  # (F, 3, H, W) uint8
    captions: list[np.ndarray]  # token ids (L,) of each
    topic: int  # this and the next: of a record only
    query: np.ndarray  # token ids (L,)
    row_key: int
    drawn_caption: int


class MemeDataset(Dataset[Sample]):
    """The distinct memes of a split, by index."""

    def __init__(self, data: SplitData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.split.memes)

    def memes_of(self, keys: Sequence[int]) -> np.ndarray:
        """The memes, by index, of the samples with these keys: (N,) int64."""
        return np.array(keys, dtype=np.int64)

    def __getitem__(self, meme: int) -> Sample:
        data = self.data
        sample: Sample = {"meme": meme, "emotions": data.emotions[meme]}
        if data.images is not None:
            sample["frames"] = data.images[data.split.memes[meme].image]
        if data.captions is not None:
            sample["captions"] = data.captions_of(meme)
        return sample


class RecordDataset(Dataset[Sample]):
    """The records of a split, by (epoch, record): random draws depend on nothing else, and on the seed."""

    def __init__(self, data: SplitData, seed: int, caption_augmentation: bool) -> None:
        self.data = data
        self.memes = MemeDataset(data)
        self.seed = seed
        self.caption_augmentation = caption_augmentation

    def __len__(self) -> int:
        return len(self.data.split)

    def memes_of(self, keys: Sequence[tuple[int, int]]) -> np.ndarray:
        """The memes, by index, of the samples with these keys: (N,) int64."""
        return self.data.split.record_meme[[record for _, record in keys]]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, record = key
        topic, meme = int(self.data.split.record_topic[record]), int(self.data.split.record_meme[record])
        sample = self.memes[meme] | {"topic": topic, "query": self.data.queries[topic]}
        # by record, of which an epoch has each once; the 1 makes it another draw than those by meme
        sample["row_key"] = int(np.random.default_rng((self.seed, epoch, record, 1)).integers(2**63))
        if self.caption_augmentation:
            captions = len(sample["captions"])
            draw = np.random.default_rng((self.seed, epoch, meme))  # by meme: it may be in a batch twice
            sample["drawn_caption"] = int(draw.integers(captions)) if captions else -1
        return sample


def collate(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Samples of MemeDataset or RecordDataset -> a batch (see above)."""
    batch = {"meme": torch.tensor([sample["meme"] for sample in samples])}
    persons = max(len(sample["emotions"]) for sample in samples)
    batch["emotions"] = torch.tensor(
        [sample["emotions"] + [-1] * (persons - len(sample["emotions"])) for sample in samples]
    )
    if "frames" in samples[0]:
        batch["pixels"], batch["frame_mask"] = stack_frames([sample["frames"] for sample in samples])
    if "captions" in samples[0]:
        batch["caption_ids"], batch["caption_mask"] = pad_groups([sample["captions"] for sample in samples])
    if "query" in samples[0]:
        batch |= query_batch([sample["query"] for sample in samples], [sample["topic"] for sample in samples])
    if "row_key" in samples[0]:
        batch["row_key"] = torch.tensor([sample["row_key"] for sample in samples])
    if "drawn_caption" in samples[0]:
        batch["drawn_caption"] = torch.tensor([sample["drawn_caption"] for sample in samples])
    return batch


def query_batch(queries: Sequence[np.ndarray], topics: Sequence[int]) -> dict[str, torch.Tensor]:
    """Token ids of queries and their topics' indices -> a batch of queries."""
    ids, mask = pad(queries)
    return {"query_ids": ids, "query_mask": mask, "topic": torch.tensor(topics)}
