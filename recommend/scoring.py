"""Queries against all rows of an index: scores (Q, rows), blocks of rows by several threads."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from evaluation.feature_store import kind_of
from recommend.model import Features, ModelInUse
from recommend.store import Store

# Memes of one visual token and caption; of several, fewer. In single precision a block is 4 MiB: the cache holds it.
BLOCK = 2048


class TextScores(NamedTuple):
    """fused: (Q, rows) float32. qi: the same, only where it cannot be had from some rows alone."""

    fused: np.ndarray
    qi: np.ndarray | None = None


def score_rows(
    model: ModelInUse, store: Store, score: Callable[[Features], Features], queries: int
) -> dict[str, np.ndarray]:
    """What `score` gives for all rows: {name: (queries, rows) float32}. score: features of M memes -> {name: (Q, M)}.

    On a CPU each thread takes a block at a time, and computes it alone: threads that share one wait for each other, for
    long where other programs are at work.
    """
    scores: dict[str, np.ndarray] = {}

    def score_block(start: int) -> None:
        for rows, features in read_block(store, model.device, start):
            for name, part in score(features).items():
                if name not in scores:
                    scores.setdefault(name, np.empty((queries, len(store.rows)), np.float32))
                scores[name][:, rows] = part.float().cpu().numpy()

    starts = range(0, len(store.rows), BLOCK)
    if model.device.type != "cpu":
        for start in starts:
            score_block(start)
    else:
        for _ in _threads().map(score_block, starts):
            pass
    return scores


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """As many threads as torch uses, each of which computes by itself."""
    number = torch.get_num_threads()
    all_there = threading.Barrier(number + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # of this thread
        all_there.wait()

    pool = ThreadPoolExecutor(number, "score", begin)
    for _ in range(number):
        pool.submit(time.sleep, 0)
    all_there.wait()
    torch.set_num_threads(number)  # of threads that begin from here on, which would take over the last one's
    return pool


def read_rows(store: Store, device: torch.device, rows: np.ndarray) -> Features:
    """The features of the given rows."""
    return store.features.read(rows, device, torch.float32)


def read_block(store: Store, device: torch.device, start: int) -> Iterator[tuple[slice | np.ndarray, Features]]:
    """Yield (rows, their features) of a block of rows, stills apart from animations.

    Memes of one token and caption that lie one after the other are read into the same memory again and again, a
    thread's own: what is yielded is valid until the thread's next one.
    """
    offsets = store.features.offsets
    stop = min(start + BLOCK, len(store.rows))
    if all(of_kind[stop] - of_kind[start] == stop - start for of_kind in offsets.values()):  # each has one row
        features = {}
        for name, array in store.features.arrays.items():
            kind = kind_of(name, offsets)
            first = start if kind is None else int(offsets[kind][start])
            part = torch.from_numpy(array[first : first + stop - start])
            copied = _buffer(name, part.shape[1:], device)[: len(part)].copy_(part.to(device))
            features[name] = copied if kind is None else copied[:, None]
        yield slice(start, stop), features
        return
    for group in store.features.groups(np.arange(start, stop)):
        some = max(1, BLOCK // store.features.most_rows(group))
        for first in range(0, len(group), some):
            rows = group[first : first + some]
            yield rows, read_rows(store, device, rows)


def _buffer(name: str, width: torch.Size, device: torch.device) -> torch.Tensor:
    """Memory of this thread for a block of a feature."""
    buffers = _own.__dict__.setdefault("buffers", {})
    buffer = buffers.get(name)
    if buffer is None or buffer.shape != (BLOCK, *width) or buffer.device != device:
        buffer = buffers[name] = torch.empty(BLOCK, *width, device=device)
    return buffer


_own = threading.local()


def text_scores(model: ModelInUse, store: Store, queries: Features) -> TextScores:
    """Scores of encoded texts and all rows."""
    count = len(queries["sentence"])
    if model.is_tight:
        return _reranked(model, store, queries)
    return TextScores(score_rows(model, store, lambda features: model.scores(queries, features), count)["fused"])


def _reranked(model: ModelInUse, store: Store, queries: Features) -> TextScores:
    """`dp` ranks all memes, and the cross encoder scores the first ones, which come first: as in an evaluation."""
    count = len(queries["sentence"])
    parts = score_rows(model, store, lambda features: model.scores_before_reranking(queries, features), count)
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
    return score_rows(model, store, lambda features: model.picture_scores(picture, features), 1)["fused"]


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
