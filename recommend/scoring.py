"""Queries against all rows of an index: scores (Q, rows), a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from recommend.model import Features, ModelInUse
from recommend.store import Store

BLOCK = 2048  # memes of one visual token; of several, fewer. In single precision a block is 4 MiB: the cache holds it


class TextScores(NamedTuple):
    """fused: (Q, rows) float32. qi: the same, only where it cannot be had from some rows alone."""

    fused: np.ndarray
    qi: np.ndarray | None = None


def score_rows(store: Store, device: torch.device, score: Callable[[Features], Features], queries: int) -> np.ndarray:
    """What `score` gives for all rows as `fused`: (queries, rows) float32. score: features of M memes -> (Q, M)."""
    scores = np.empty((queries, len(store.rows)), np.float32)
    for rows, features in blocks(store, device):
        scores[:, rows] = score(features)["fused"].float().cpu().numpy()
    return scores


def read_rows(store: Store, device: torch.device, rows: np.ndarray) -> Features:
    """The features of the given rows."""
    return store.features.read(rows, device, torch.float32)


def blocks(store: Store, device: torch.device) -> Iterator[tuple[slice | np.ndarray, Features]]:
    """Yield (rows, their features) of all rows, stills apart from animations. A block is valid until the next one.

    Stills, which lie one after the other, are read into the same memory again and again.
    """
    buffers: Features = {}
    lengths, offsets = store.features.lengths, store.features.offsets
    for start in range(0, len(store.rows), BLOCK):
        stop = min(start + BLOCK, len(store.rows))
        if offsets[stop] - offsets[start] == stop - start:  # each has one token
            token = int(offsets[start])
            features = {}
            for name, array in store.features.arrays.items():
                first = token if name.startswith("token") else start
                part = torch.from_numpy(array[first : first + stop - start])
                buffer = buffers.setdefault(name, torch.empty(BLOCK, *part.shape[1:], device=device))
                copied = buffer[: len(part)].copy_(part)
                features[name] = copied[:, None] if name.startswith("token") else copied
            yield slice(start, stop), features
            continue
        for group in store.features.groups(np.arange(start, stop)):
            some = max(1, BLOCK // int(lengths[group].max()))
            for first in range(0, len(group), some):
                rows = group[first : first + some]
                yield rows, read_rows(store, device, rows)


def text_scores(model: ModelInUse, store: Store, queries: Features) -> TextScores:
    """Scores of encoded texts and all rows."""
    count = len(queries["sentence"])
    if model.is_tight:
        return _reranked(model, store, queries)
    return TextScores(score_rows(store, model.device, lambda features: model.scores(queries, features), count))


def _reranked(model: ModelInUse, store: Store, queries: Features) -> TextScores:
    """`dp` ranks all memes, and the cross encoder scores the first ones, which come first: as in an evaluation."""
    count = len(queries["sentence"])
    parts = {name: np.empty((count, len(store.rows)), np.float32) for name in ("qi", "qc")}
    for rows, features in blocks(store, model.device):
        for name, tensor in model.scores_before_reranking(queries, features).items():
            parts[name][:, rows] = tensor.float().cpu().numpy()
    qi = np.where(store.live, parts["qi"], np.float32(-4))  # no row that is in no gallery is among the best
    top = min(model.args.rerank_top, len(store))
    for query in range(count):
        best = np.argpartition(-qi[query], top - 1)[:top]
        one = {name: tensor[query : query + 1] for name, tensor in queries.items()}
        scores = model.cross_scores(one, read_rows(store, model.device, best))
        qi[query] -= 2  # below all scores of the cross encoder
        qi[query, best] = scores
    return TextScores(model.fuse(qi, parts["qc"], queries), qi)


def picture_scores(model: ModelInUse, store: Store, picture: Features) -> np.ndarray:
    """Scores of an encoded meme and all rows: (1, rows) float32."""
    return score_rows(store, model.device, lambda features: model.picture_scores(picture, features), 1)


def emotion_scores(store: Store, affinity: np.ndarray) -> np.ndarray:
    """How near the persons of each row come to an emotion: (1, rows) float32, the nearest person's; -1 without persons.

    affinity: of the emotions by their index (`ModelInUse.emotion_affinity`).
    """
    persons = store.rows["persons"].astype(np.int64)
    scores = np.full((1, len(persons)), -1, np.float32)
    some = np.flatnonzero(persons)
    if len(some):
        starts = np.concatenate([[0], persons.cumsum()])[some]
        scores[0, some] = np.maximum.reduceat(affinity[store.emotions], starts)
    return scores
