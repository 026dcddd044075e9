"""What a run keeps of each test query, in test_queries.npz: ranks, best memes, α, the words' weights.

Tables and reports are made from it alone: they need neither the model nor the matrices. Q queries, M memes, P relevant
pairs, K best memes of a query.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

import metrics
from dataloaders.meme_records import Split
from util import InputError, replaced_atomically

FILE_NAME = "test_queries.npz"
RELEVANT_STEP = 2**28  # see `order_keys`
UNREADABLE = (
    *(ValueError, TypeError, LookupError, OverflowError, OSError, EOFError, NotImplementedError),
    *(zlib.error, zipfile.BadZipFile),
)
BEST_KEPT = 10
KEYS_AT_ONCE = 2**21  # of `order_keys`
MAX_BYTES = 2**28  # of the arrays, unpacked: ids take as much for each meme as for the one with the longest


@dataclasses.dataclass
class QueryRecord:
    """topic_ids (Q,), image_ids (M,): str. ranks: {score: (P,)}, 1-based, query to meme, in the order of `relevance`'s
    pairs. best_meme: (Q, K) indices of the first K memes by the fused score, in order; best_scores and best_ranks:
    {score: (Q, K)} of these memes. alpha: (Q,) weight of QI, or (0,) with one branch. words: a list per query of
    (text, weight in QI), empty but with `--interaction wti`.
    """

    topic_ids: np.ndarray
    image_ids: np.ndarray
    relevance: metrics.Relevance
    ranks: dict[str, np.ndarray]
    best_meme: np.ndarray
    best_scores: dict[str, np.ndarray]
    best_ranks: dict[str, np.ndarray]
    alpha: np.ndarray
    words: list[list[tuple[str, float]]]

    @classmethod
    def of(
        cls,
        split: Split,
        relevance: metrics.Relevance,
        ranks: Mapping[str, tuple[np.ndarray, np.ndarray]],
        best: BestMemes,
        alpha: ArrayLike = (),
        words: Iterable[list[tuple[str, float]]] = (),
    ) -> QueryRecord:
        """From a Split, {score: (query->meme ranks, meme->query ranks)} and the filled BestMemes of its test."""
        by_query = {score: both[0] for score, both in ranks.items()}
        return cls(
            topic_ids=np.array(split.topic_ids, dtype=np.str_),
            image_ids=np.array([meme.image_id for meme in split.memes], dtype=np.str_),
            relevance=relevance,
            ranks=by_query,
            best_meme=best.meme[:, : best.recorded],
            best_scores={score: kept[:, : best.recorded] for score, kept in best.scores.items()},
            best_ranks=best.ranks(by_query),
            alpha=np.asarray(alpha, dtype=np.float64),
            words=list(words) or [[] for _ in split.topic_ids],
        )

    def values(self, score: str = "fused") -> tuple[tuple[str, ...], np.ndarray]:
        """(names of metrics.METRICS, (Q', their number) values per query) as metrics.per_query_metrics gives them."""
        return metrics.per_query_metrics(self.ranks[score], self.relevance.query, *self.relevance.shape)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write test_queries.npz into the run's folder, atomically."""
        pieces = [piece for words in self.words for piece in words]
        arrays: dict[str, Any] = {
            "topic_ids": np.asarray(self.topic_ids, dtype=np.str_),
            "image_ids": np.asarray(self.image_ids, dtype=np.str_),
            "query": self.relevance.query,
            "meme": self.relevance.meme,
            "best_meme": self.best_meme,
            "alpha": np.asarray(self.alpha, dtype=np.float64),
            "word_text": np.array([text for text, _ in pieces], dtype=np.str_),
            "word_weight": np.array([weight for _, weight in pieces], dtype=np.float32),
            "words_of_query": np.array([len(words) for words in self.words], dtype=np.int64),
        }
        for kind in ("ranks", "best_scores", "best_ranks"):
            arrays |= {f"{kind}.{score}": array for score, array in getattr(self, kind).items()}
        with replaced_atomically(Path(folder) / FILE_NAME) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> QueryRecord:
        """Read the file of a run's folder; InputError where it is missing or damaged, or its arrays do not fit."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise InputError(f"{path}: no such file; a finished run of this version writes it")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = metrics.read_archive(file, file.files, MAX_BYTES)
            record = cls._from_arrays(arrays)
            record._check()
            return record
        except UNREADABLE as error:
            raise InputError(f"{path}: cannot be read: {error}") from None

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> QueryRecord:
        topic_ids, image_ids = arrays["topic_ids"], arrays["image_ids"]
        parts = {
            kind: {
                name.removeprefix(f"{kind}."): array for name, array in arrays.items() if name.startswith(f"{kind}.")
            }
            for kind in ("ranks", "best_scores", "best_ranks")
        }
        pieces = list(zip(arrays["word_text"].astype(np.str_).tolist(), arrays["word_weight"].tolist(), strict=True))
        ends = np.cumsum(arrays["words_of_query"]).tolist()
        if (arrays["words_of_query"] < 0).any() or (ends[-1] if ends else 0) != len(pieces):
            raise ValueError(f"words_of_query does not add up to {len(pieces)}")
        words = [pieces[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return cls(
            topic_ids=topic_ids,
            image_ids=image_ids,
            relevance=metrics.Relevance(arrays["query"], arrays["meme"], (len(topic_ids), len(image_ids))),
            best_meme=arrays["best_meme"],
            alpha=arrays["alpha"],
            words=words,
            **parts,
        )

    def _check(self) -> None:
        """ValueError where an array is not of the kind or the shape that it should be, or a number not possible."""
        queries, memes = self.relevance.shape
        best = (queries, self.best_meme.shape[-1])
        for name, array, kind, shape, low, high in (
            ("topic_ids", self.topic_ids, "U", (queries,), None, None),
            ("image_ids", self.image_ids, "U", (memes,), None, None),
            ("alpha", self.alpha, "f", (queries,) if len(self.alpha) else (0,), 0, 1),
            ("best_meme", self.best_meme, "iu", best, 0, memes - 1),
            *(
                (f"ranks.{score}", array, "iu", self.relevance.query.shape, 1, memes)
                for score, array in self.ranks.items()
            ),
            *((f"best_scores.{score}", array, "f", best, None, None) for score, array in self.best_scores.items()),
            *((f"best_ranks.{score}", array, "iu", best, 1, memes) for score, array in self.best_ranks.items()),
        ):
            if array.dtype.kind not in kind or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected shape {shape}")
            if low is not None and not ((array >= low) & (array <= high)).all():
                raise ValueError(f"{name} is not within {low} and {high} everywhere")
        if len(self.words) != queries or not all(0 <= weight <= 2 for of in self.words for _, weight in of):
            raise ValueError("the words are not those of the queries, or their weights not between 0 and 1")
        if missing := ({"fused"} | (self.ranks.keys() & {"qi", "qc"})) - (self.ranks.keys() & self.best_ranks.keys()):
            raise ValueError(f"there are no ranks of {', '.join(sorted(missing))}")
        for score in self.ranks:
            self.values(score)


def order_keys(scores: np.ndarray) -> np.ndarray:
    """Keys (R, M) int64, all different in a row: in the order of the float32 scores; of equal ones the earlier meme has
    the higher key.

    Neighbouring float32 numbers are 2**29 float64 numbers apart, and these, read as integers, keep their order: there
    is room below each score for 2**28 memes, and as much again for the relevant ones.
    """
    bits = (np.asarray(scores, dtype=np.float32).astype(np.float64) + 0.0).view(np.int64)  # + 0.0: no negative zero
    keys = np.where(bits >= 0, bits, bits ^ np.iinfo(np.int64).max)
    return keys - np.arange(keys.shape[1])


class BestMemes:
    """Each query's best memes by the fused score, found while the rows of a split pass (eval_loop.rank_blocks).

    The order is that of metrics.py: in a tie memes that are not relevant come first, then the earlier ones. kept: how
    many; ranks are found of the first BEST_KEPT alone.
    """

    def __init__(self, relevance: metrics.Relevance, kept: int = BEST_KEPT) -> None:
        self.relevance = relevance
        queries, memes = relevance.shape
        self.kept = min(kept, memes)
        self.recorded = min(self.kept, BEST_KEPT)
        self.meme = np.full((queries, self.kept), -1, np.int64)
        self.scores: dict[str, np.ndarray] = {}
        self.above: dict[str, np.ndarray] = {}  # how many memes score higher

    def add(self, rows: slice, block: Mapping[str, np.ndarray]) -> None:
        """Some queries' whole rows. block: {score: (R, M)}, `fused` among them."""
        few = max(1, KEYS_AT_ONCE // self.relevance.shape[1])
        for start in range(rows.start, rows.stop, few):
            some = slice(start, min(start + few, rows.stop))
            self._add({name: scores[some.start - rows.start :][:few] for name, scores in block.items()}, some)

    def _add(self, block: Mapping[str, np.ndarray], rows: slice) -> None:
        order = order_keys(block["fused"])
        _, line, meme = self.relevance.within(rows)
        order[line, meme] -= RELEVANT_STEP
        chosen = np.argpartition(order, -self.kept, axis=1)[:, -self.kept :]
        by_order = np.argsort(np.take_along_axis(order, chosen, axis=1), axis=1)[:, ::-1]
        self.meme[rows] = chosen = np.take_along_axis(chosen, by_order, axis=1)
        for name, scores in block.items():
            best = np.take_along_axis(scores, chosen, axis=1)
            self.scores.setdefault(name, np.zeros(self.meme.shape, np.float32))[rows] = best
            above = self.above.setdefault(name, np.zeros((len(self.meme), self.recorded), np.int64))
            for slot in range(self.recorded):
                above[rows, slot] = np.count_nonzero(scores > best[:, slot, None], axis=1)

    def merge(self, other: BestMemes) -> None:
        """Take over another one's queries."""
        rows = other.meme[:, 0] >= 0
        self.meme[rows] = other.meme[rows]
        for own, found in ((self.scores, other.scores), (self.above, other.above)):
            for name, array in found.items():
                own.setdefault(name, np.zeros_like(array))[rows] = array[rows]

    def ranks(self, pair_ranks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{score: (Q, K)} of the first K; relevant memes have their strict rank, of `pair_ranks` {score: (P,)}."""
        memes = self.relevance.shape[1]
        pairs = self.relevance.query * memes + self.relevance.meme
        wanted = np.arange(len(self.meme))[:, None] * memes + self.meme[:, : self.recorded]
        place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        relevant = pairs[place] == wanted
        return {name: np.where(relevant, pair_ranks[name][place], above + 1) for name, above in self.above.items()}
