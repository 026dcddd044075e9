"""A trained model in use: opened from its checkpoint or as published, it encodes memes and texts and compares them.

What this package asks of the model it asks here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from dataloaders.image_transform import PAD_COLOUR, ImageSettings
from dataloaders.meme_dataset import Sample, collate
from dataloaders.meme_records import Meme, emotion_ids, texts
from dataloaders.token_table import TokenTable, pad
from engine import checkpoint, published_model
from engine.arguments import check_settings, parse_arguments
from engine.build_model import build_model
from engine.test_record import weights_of_pieces
from evaluation.eval_loop import chunk_of_queries, to_device, valid_rows
from evaluation.feature_store import kind_of
from modules.caption_similarity import caption_scores
from modules.image_similarity import PooledSimilarity, TightSimilarity
from util import InputError

Features = dict[str, torch.Tensor]
NO_IMAGE_SIZE = 224  # pixels that tell pictures apart, where the model reads none


class ModelInUse:
    """IEF as it was trained, for reading only: threads may share it.

    name: the checkpoint's or folder's path, or hub:OWNER/NAME@COMMIT. sha256: of the checkpoint, or of the folder's
    config.json. args: the model's flags. settings: how its images are read.
    """

    def __init__(self, model: str | os.PathLike[str], device: str | None = None) -> None:
        """model: a checkpoint, a folder of scripts.publish or hub:OWNER/NAME[@REVISION]. device: cpu, cuda or mps; None
        takes a GPU where there is one. InputError where it cannot be opened.
        """
        self.name, path = published_model.find(model)
        if not self.name.startswith(published_model.HUB):
            self.name = str(path.resolve())
        self.args, given = parse_arguments(["--do_eval", "--init_model", self.name, "--output_dir", "."])
        saved = published_model.load(path)
        checkpoint.adopt_arguments(self.args, given, saved, self.name)
        check_settings(self.args, given)
        self.args.cdcr_lambda = 0.0  # what it reads beside the scores is not kept
        self.device = _device(device)
        self.model = build_model(self.args, [], saved)[0].to(self.device).eval().requires_grad_(False)
        self.sha256 = published_model.fingerprint(path)
        backbone = self.model.backbone
        seen = backbone.image_input if self.reads_images else None
        self.settings: ImageSettings = {
            "size": seen.size if seen else NO_IMAGE_SIZE,
            "resize_mode": self.args.resize,
            "max_frames": self.args.max_frames,
            "slice_framepos": self.args.slice_framepos,
            "interpolation": seen.interpolation if seen else "bicubic",
            "pad_colour": seen.mean_colour if seen else PAD_COLOUR,
        }
        self.tokenizer = backbone.tokenizer
        vectors = self.model.emotion_vectors
        self.emotions: dict[str, int] = vectors.index_of if vectors is not None else {}

    @property
    def reads_images(self) -> bool:
        return self.model.wiring.has_image

    @property
    def reads_captions(self) -> bool:
        return self.model.wiring.reads_captions

    @property
    def is_tight(self) -> bool:
        """Whether a cross encoder scores the memes that `dp` ranks first."""
        return isinstance(self.model.image_similarity, TightSimilarity)

    def captions_of(self, meme: Meme) -> tuple[str, ...]:
        """Those of a meme's texts that the model reads as its captions."""
        return texts(meme, self.args.caption_source)[: self.args.max_captions] if self.reads_captions else ()

    def emotions_of(self, meme: Meme) -> list[int]:
        """A meme's emotion words as the model knows them; [] where it has no persons, or the model no emotions."""
        return emotion_ids(meme.emotions, self.emotions) if self.emotions and meme.emotions else []

    @torch.no_grad()
    def encode_memes(self, memes: Sequence[Meme], frames: Sequence[torch.Tensor]) -> tuple[Features, Features]:
        """Memes and their frames (F, 3, H, W), uint8 -> (what `scores` reads of them, how many rows of it are real)."""
        samples: list[Sample] = []
        for number, (meme, pixels) in enumerate(zip(memes, frames, strict=True)):
            sample: Sample = {"meme": number, "emotions": emotion_ids(meme.emotions, self.emotions)}
            if self.reads_images:
                sample["frames"] = pixels
            if self.reads_captions:
                table = TokenTable(self.captions_of(meme), self.tokenizer, self.args.max_caption_words)
                sample["captions"] = [table[caption] for caption in range(len(table))]
            samples.append(sample)
        batch = to_device(collate(samples), self.device)
        features = self.model.encode_memes(batch)
        return features, valid_rows(batch, features)

    @torch.no_grad()
    def encode_texts(self, queries: Sequence[str]) -> tuple[Features, TokenTable]:
        """Queries -> (what `scores` reads of them, their tokens); `cut` of the latter: tokens beyond --max_words."""
        table = TokenTable(queries, self.tokenizer, self.args.max_words)
        parts = []
        ids, mask = (tensor.to(self.device) for tensor in pad([table[i] for i in range(len(table))]))
        for start in range(0, len(table), self.args.batch_size_val):
            some = slice(start, start + self.args.batch_size_val)
            parts.append(self.model.encode_queries(ids[some], mask[some]))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, table

    @torch.no_grad()
    def scores(self, queries: Features, memes: Features, names: Sequence[str] = ("fused",)) -> Features:
        """Scores (Q, M) of encoded queries and memes, by name: qi, qc, fused, as an evaluation computes them."""
        tokens = memes["tokens"].shape[1] if "tokens" in memes else 1
        words = queries["words"].shape[1] if "words" in queries else 1
        some = chunk_of_queries(words, tokens, len(next(iter(memes.values()))), self.device)
        Q = len(queries["sentence"])
        if some >= Q:
            return self._scores(queries, memes, names)
        parts = [
            self._scores({name: tensor[start : start + some] for name, tensor in queries.items()}, memes, names)
            for start in range(0, Q, some)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in names if name in parts[0]}

    @torch.no_grad()
    def scores_before_reranking(self, queries: Features, memes: Features) -> Features:
        """With a cross encoder: `qi` of `dp`, by which memes are chosen, and `qc`, 0 where there is none: (Q, M)."""
        similarity = self.model.image_similarity
        assert isinstance(similarity, TightSimilarity)
        qi = PooledSimilarity.scores(similarity, queries, memes)
        has_caption = self.model.wiring.has_caption
        qc = caption_scores(queries["sentence"], memes["caption"]) if has_caption else torch.zeros_like(qi)
        return {"qi": qi, "qc": qc}

    @torch.no_grad()
    def cross_scores(self, query: Features, memes: Features) -> np.ndarray:
        """The cross encoder's scores (M,) of one query and some memes."""
        similarity = self.model.image_similarity
        assert isinstance(similarity, TightSimilarity)
        which = torch.arange(len(memes["pooled"]), device=self.device)
        return similarity.pair_scores(query, memes, torch.zeros_like(which), which).float().cpu().numpy()

    @torch.no_grad()
    def fuse(self, qi: np.ndarray, qc: np.ndarray, queries: Features) -> np.ndarray:
        """qi and qc (Q, M) with the model's weights; qi where there is one branch."""
        if self.model.fusion is None:
            return qi
        parts = (torch.from_numpy(part).to(self.device) for part in (qi, qc))
        return self.model.fusion(*parts, queries["sentence"]).cpu().numpy()

    def _scores(self, queries: Features, memes: Features, names: Sequence[str]) -> Features:
        scores = self.model.similarities(queries, memes, names)
        return {name: scores[name] for name in names if name in scores}

    @torch.no_grad()
    def picture_scores(self, picture: Features, memes: Features) -> Features:
        """Scores (1, M) of one encoded meme and others, as if its visual tokens were a query's words.

        `qi` of the images, `qc` of the captions where both memes have some, `fused` of both with the model's weights.
        """
        model, scores = self.model, {}
        if model.image_similarity is not None:
            as_query = {"sentence": picture["pooled"]} if "pooled" in picture else {}
            if "tokens" in picture:
                as_query |= {"words": picture["tokens"], "word_weight": picture["token_weight"]}
            similarity = model.image_similarity
            if isinstance(similarity, TightSimilarity):  # its cross encoder compares memes with texts alone
                scores["qi"] = PooledSimilarity.scores(similarity, as_query, memes)
            else:
                scores["qi"] = similarity.scores(as_query, memes)
        sentence = self.caption_of(picture)
        if sentence is not None:
            scores["qc"] = caption_scores(sentence, memes["caption"])
        if sentence is not None and "qi" in scores and model.fusion is not None:
            scores["fused"] = model.fusion(scores["qi"], scores["qc"], sentence)
        elif not scores:
            raise InputError("this model compares captions alone: a picture without captions is like no meme")
        else:
            scores["fused"] = next(iter(scores.values()))
        return scores

    def caption_of(self, picture: Features) -> torch.Tensor | None:
        """The captions of one encoded meme as a query's sentence (1, d); None where it has none, or none are read.

        Of several vectors (`--text_pool_type max`) it is the mean.
        """
        caption = picture.get("caption")
        if caption is None or not caption.any():
            return None
        return caption if caption.ndim == 2 else F.normalize(caption.mean(dim=1), dim=-1)

    @torch.no_grad()
    def alpha(self, queries: Features) -> list[float | None]:
        """The weight of QI for each query; None where there is one branch only."""
        if self.model.fusion is None:
            return [None] * len(queries["sentence"])
        return self.model.fusion.alpha(queries["sentence"]).expand(len(queries["sentence"]), 1)[:, 0].tolist()

    def word_weights(self, queries: Features, table: TokenTable) -> list[list[tuple[str, float]]]:
        """WTI's weight of each word of each query: lists of (text, weight), empty without `--interaction wti`."""
        if getattr(self.model.image_similarity, "word_weights", None) is None:
            return [[] for _ in range(len(table))]
        weights = queries["word_weight"].float().cpu().numpy()
        return [weights_of_pieces(self.tokenizer, table[i].tolist(), weights[i]) for i in range(len(table))]

    def emotion_affinity(self, word: str) -> np.ndarray:
        """How near each word of the model's vocabulary is to `word`: cosines (2 + n,) of the vectors less their mean.

        Hence 0 of `unknown`, whose vector is the mean, and at least -1. InputError for a word that the model has no
        vector of.
        """
        vectors = self.model.emotion_vectors
        word = word.strip().lower()
        if vectors is None or not vectors.words:
            raise InputError(f"--emotion {word}: this model knows no emotions")
        if word not in vectors.words:
            known = ", ".join(sorted(vectors.words)[:30])
            more = f" and {len(vectors.words) - 30} more" if len(vectors.words) > 30 else ""
            raise InputError(f"--emotion {word}: none of the model's emotions, which are {known}{more}")
        table = vectors.table().detach().double().cpu().numpy()
        centred = table - table[1]
        lengths = np.linalg.norm(centred, axis=1)
        wanted = vectors.index_of[word]
        cosines = centred @ centred[wanted] / np.maximum(lengths * lengths[wanted], 1e-12)
        cosines[wanted] = 1.0  # also where there is one word only, which is the mean
        return cosines.astype(np.float32)


def _device(name: str | None) -> torch.device:
    """The first GPU where there is one and nothing else is asked for. InputError where there is none such."""
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: torch sees no GPU of Apple's here")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # single precision is that, in convolutions too
    return device


def to_rows(features: Mapping[str, torch.Tensor], valid: Mapping[str, torch.Tensor]) -> list[dict[str, np.ndarray]]:
    """A batch of encoded memes -> the features of each, without padding, on the CPU."""
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in features.items()}
    kinds = {name: kind_of(name, valid) for name in arrays}
    lengths = {kind: rows.tolist() for kind, rows in valid.items()}
    return [
        {
            name: array[meme] if (kind := kinds[name]) is None else array[meme, : lengths[kind][meme]]
            for name, array in arrays.items()
        }
        for meme in range(len(lengths["token"]))
    ]
