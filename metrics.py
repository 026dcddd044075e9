"""Scores and relevance -> strict ranks -> R@K, recall@K, P@K, MdR, MnR, mAP, nDCG@10, with intervals.

NumPy only. Runs alone on saved matrices: `python metrics.py qi.npy qc.npy --weights 0.73 0.27`.
The definitions, and what they avoid, are in docs/METRICS.md. Q queries, M memes, P relevant pairs.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from util import InputError, NotFinite, replaced_atomically  # first: it says what to run where NumPy is missing

# isort: split

import numpy as np
from numpy.typing import ArrayLike

TILE_ELEMENTS = 2**23
MARGIN = 1e-5  # by how much a score may differ that was computed in a matrix of another shape
NEAR_KEPT = 2**22  # scores that RankCounter keeps at most: 64 MiB
LARGEST_SUM = 100.0  # of fitted coefficients
LEAST_SLOPE = 1e-6  # nats that a unit of one has to gain: what is constant but for float32's last bits gains less
UNPACKED_BYTES, UNPACKED_TIMES = 2**26, 32  # what an archive's arrays may take: the larger of so much and so many times


class Relevance:
    """Which memes are relevant to which query: P pairs, sorted by (query, meme).

    `query`, `meme`: int64 arrays (P,); `shape`: (Q, M); `source`: (P,), the position of each pair in the
    arrays which the object was made from, in any order. InputError when an index is out of range, a pair is
    repeated, or the arrays are not integers of one length.
    """

    def __init__(self, query: ArrayLike, meme: ArrayLike, shape: ArrayLike) -> None:
        query, meme, shape = np.asarray(query), np.asarray(meme), np.asarray(shape)
        for name, array in (("query", query), ("meme", meme), ("shape", shape)):
            if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
                raise InputError(f"'{name}' must be a list of integers, not {array.dtype} of shape {array.shape}")
        if len(query) != len(meme) or len(shape) != 2 or min(shape) < 1:
            raise InputError(
                f"'query' has {len(query)} entries, 'meme' {len(meme)}, 'shape' is {shape.tolist()}: "
                "expected one entry of each per relevant pair, and the numbers of queries and memes"
            )
        self.shape = int(shape[0]), int(shape[1])
        query, meme = query.astype(np.int64), meme.astype(np.int64)
        bad = (query < 0) | (query >= self.shape[0]) | (meme < 0) | (meme >= self.shape[1])
        if bad.any():
            i = bad.argmax()
            raise InputError(f"pair {i}: query {query[i]}, meme {meme[i]} is outside {shape_text(self.shape)}")
        self.source = np.lexsort((meme, query))
        self.query, self.meme = query[self.source], meme[self.source]
        repeated = (np.diff(self.query) == 0) & (np.diff(self.meme) == 0)
        if repeated.any():
            i = repeated.argmax()
            raise InputError(f"the pair query {self.query[i]}, meme {self.meme[i]} occurs more than once")

    @classmethod
    def diagonal(cls, n: int) -> Relevance:
        """Meme i is the one relevant to query i, of n."""
        return cls(np.arange(n), np.arange(n), (n, n))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Relevance:
        """Read `.npy` (dense 0/1, Q x M) or `.npz` (`query`, `meme`, `shape`); InputError names the file."""
        loaded = load_array(path)
        try:
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return cls(*_nonzero(loaded), loaded.shape)
            with loaded:
                if absent := {"query", "meme", "shape"} - set(loaded.files):
                    raise InputError(f"no array {sorted(absent)}; the file holds {sorted(loaded.files)}")
                return cls(**read_archive(loaded, ("query", "meme", "shape")))
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` which `load` reads, atomically."""
        with replaced_atomically(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, query=self.query, meme=self.meme, shape=np.array(self.shape))

    def transposed(self) -> Relevance:
        """The same pairs with memes as queries; its pair i is pair `source[i]` of this object."""
        return Relevance(self.meme, self.query, self.shape[::-1])

    def within(self, rows: slice) -> tuple[slice, np.ndarray, np.ndarray]:
        """The pairs of the queries `rows`: (where they are among all, their queries counted from rows.start, memes)."""
        pairs = slice(*np.searchsorted(self.query, (rows.start, rows.stop)).tolist())
        return pairs, self.query[pairs] - rows.start, self.meme[pairs]

    def queries(self, start: int, stop: int) -> Relevance:
        """The relevance of queries start ... stop - 1 alone, numbered from 0."""
        _, query, meme = self.within(slice(start, stop))
        return Relevance(query, meme, (stop - start, self.shape[1]))

    def pairs_of(self, queries: np.ndarray) -> Relevance:
        """The pairs of some queries alone; the others keep their numbers, and have nothing relevant."""
        kept = np.isin(self.query, queries)
        return Relevance(self.query[kept], self.meme[kept], self.shape)

    @property
    def counts(self) -> np.ndarray:
        """(Q,) number of relevant memes of each query."""
        return np.bincount(self.query, minlength=self.shape[0])

    @property
    def skipped(self) -> int:
        """How many queries have no relevant meme, and are left out of every average."""
        return int((self.counts == 0).sum())


class RankCounter:
    """Ranks of all relevant pairs, in both directions, from the rows of a matrix that need not be in memory.

    `add` every row once, in blocks and in any order, then `ranks`. Memory: the pairs, and a block three times.

    A row is whole, so that all that it is ranked by is there. A column is not: scores come before the relevant pair's
    own, with which they have to be compared. `expected` (P,) says what that will be, give or take `margin`: what lies
    outside is counted at once, what lies within is kept until the pair's own score has come, from its block. So ranks
    are those of the matrix that was added, to the last bit and in every tie, however the expected scores were computed.

    Not `settled`: a pair's score was not within the margin, or more than NEAR_KEPT had to be kept (a model that gives
    everything the same score). Then a second counter, which expects the first one's `scores` with margin 0, settles.

    NotFinite: a score is NaN or infinite. InputError: it is no real number. ValueError: the blocks do not cover the
    matrix once, or it is not settled.
    """

    def __init__(self, relevance: Relevance, expected: np.ndarray, margin: float = MARGIN) -> None:
        self.relevance, self._transposed = relevance, relevance.transposed()
        self.scores = np.full(len(relevance.query), np.nan)
        self._low, self._high = expected - margin, expected + margin
        self._by_query = np.zeros(len(relevance.query), np.int64)
        self._at_least = np.zeros(len(relevance.query), np.int64)  # in a pair's column; in the transposed order
        self._near: list[tuple[np.ndarray, np.ndarray]] = []  # (pairs in the transposed order, scores in their columns)
        self._n_near = 0
        self._cover = np.zeros(relevance.shape[0], np.int64)

    def add(self, rows: slice, block: ArrayLike) -> None:
        """Count a block of whole rows: a slice of step 1, and the scores there, (R, M)."""
        (row, row_end, step), block = rows.indices(self.relevance.shape[0]), _as_scores(block)
        if step != 1 or block.shape != (row_end - row, self.relevance.shape[1]):
            raise ValueError(f"a block of shape {block.shape} was given for rows {rows} of {self.relevance.shape}")
        _check_finite(block, row, 0)
        self._cover[row:row_end] += 1
        pairs, line, meme = self.relevance.within(slice(row, row_end))
        own = block[line, meme]
        self.scores[pairs] = own
        self._by_query[pairs] = _strict_ranks(line, own, _count_at_least(block, line, own))
        known = self.scores[self._transposed.source]
        low, high = (
            np.where(np.isnan(known), bound[self._transposed.source], known) for bound in (self._low, self._high)
        )
        width = max(1, TILE_ELEMENTS // max(1, len(block)))
        for column in range(0, block.shape[1], width):
            self._count_columns(column, block[:, column : column + width], low, high)

    def merge(self, other: RankCounter) -> None:
        """Take over what another counter, of other rows of the same matrix, has counted."""
        found = other._cover[self.relevance.query] > 0
        self.scores[found] = other.scores[found]
        self._by_query += other._by_query
        self._at_least += other._at_least
        self._near += other._near
        self._n_near += other._n_near
        self._cover += other._cover

    @property
    def settled(self) -> bool:
        """Whether the ranks are known; to be asked when all rows have been added."""
        self._check_cover()
        return self._n_near <= NEAR_KEPT and not self._unexpected().any()

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """-> (query_to_meme, meme_to_query): int64 (P,) each, in the order of the relevance's pairs.

        The 1-based rank of each relevant pair among its query's memes, and among its meme's queries.
        """
        self._check_cover()
        if not self.settled:
            raise ValueError(
                f"the ranks are not settled: {self._unexpected().sum()} pairs do not score what was expected of them, "
                f"and {self._n_near:,} scores were near that"
            )
        own, at_least = self.scores[self._transposed.source], self._at_least.copy()
        for pairs, scores in self._near:
            at_least += np.bincount(pairs[scores >= own[pairs]], minlength=len(own))
        by_meme = np.empty_like(at_least)
        by_meme[self._transposed.source] = _strict_ranks(self._transposed.query, own, at_least)
        return self._by_query, by_meme

    def _count_columns(self, column: int, block: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Count what is at least `high` in each pair's column, and keep what is from `low` to below `high`."""
        first, last = np.searchsorted(self._transposed.query, (column, column + block.shape[1]))
        line, low, high = self._transposed.query[first:last] - column, low[first:last], high[first:last]
        ordered = _sorted_rows(block.T)
        below_high = _count_below(ordered, line, high)
        self._at_least[first:last] += len(block) - below_high
        open_pairs = np.flatnonzero(low < high)
        below_low = _count_below(ordered, line[open_pairs], low[open_pairs])
        near = below_high[open_pairs] - below_low
        self._n_near += int(near.sum())
        if not near.any() or self._n_near > NEAR_KEPT:
            return
        pairs = np.repeat(open_pairs, near)
        place = np.arange(len(pairs)) - np.repeat(np.cumsum(near) - near - below_low, near)
        self._near.append((first + pairs, ordered[line[pairs], place]))

    def _unexpected(self) -> np.ndarray:
        return ~((self._low <= self.scores) & (self.scores <= self._high))

    def _check_cover(self) -> None:
        if (self._cover != 1).any():
            i = (self._cover != 1).argmax()
            raise ValueError(
                f"the blocks do not cover the matrix once: the row of query {i} was added {self._cover[i]} times"
            )


def ranks_from_rows(
    read_rows: Callable[[slice], np.ndarray], relevance: Relevance, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """RankCounter's two arrays, so many rows at a time; `read_rows(rows)`, called twice with each, returns the scores.

    The first time only the relevant pairs' scores are taken.
    """
    n_queries, n_memes = relevance.shape
    height = rows or max(1, 2 * TILE_ELEMENTS // n_memes)
    blocks = [slice(row, min(row + height, n_queries)) for row in range(0, n_queries, height)]
    own = np.empty(len(relevance.query))
    for block in blocks:
        pairs, line, meme = relevance.within(block)
        own[pairs] = _as_scores(read_rows(block))[line, meme]
    counter = RankCounter(relevance, own, 0.0)
    for block in blocks:
        counter.add(block, read_rows(block))
    return counter.ranks()


def relevant_ranks(scores: ArrayLike, relevance: Relevance) -> np.ndarray:
    """1-based rank of every relevant pair in its query's order over the memes: int64 (P,).

    scores: (Q, M), in memory. The other direction is `relevant_ranks(scores.T, relevance.transposed())`, in
    the order of the transposed pairs. InputError on NaN or infinity, ValueError on another shape.
    """
    scores = _as_scores(scores)
    if scores.shape != relevance.shape:
        raise ValueError(f"the scores are {scores.shape}, the relevance is {relevance.shape}")
    _check_finite(scores, 0, 0)
    own = scores[relevance.query, relevance.meme]
    return _strict_ranks(relevance.query, own, _count_at_least(scores, relevance.query, own))


class RankedQueries:
    """What a metric is made of: the ranks of the relevant items of Q' queries, each of which has some.

    ranks: (P,) query by query, ascending; place: (P,) 1 for a query's first relevant item, 2 for the second, ...;
    best, n_relevant: (Q',) the best rank of each query, and how many items are relevant to it. A rank may be infinite,
    of an item that was not found.
    """

    def __init__(self, ranks: np.ndarray, query: np.ndarray) -> None:
        _, self._start, self.n_relevant = np.unique(query, return_index=True, return_counts=True)
        self.ranks, self.best = ranks, ranks[self._start]
        self.place = np.arange(len(ranks)) - np.repeat(self._start, self.n_relevant) + 1

    def total(self, per_rank: np.ndarray) -> np.ndarray:
        """(P,) -> (Q',): the sum over each query's relevant items."""
        return np.add.reduceat(per_rank.astype(np.float64), self._start)

    def hits(self, k: int) -> np.ndarray:
        """(Q',) how many relevant items have a rank of at most k."""
        return self.total(self.ranks <= k)


class RandomOrder:
    """Queries whose items are in an order drawn uniformly, each order as likely.

    items: how many there are; n_relevant: (G,) the different numbers of relevant ones; share: (G,) of the queries that
    have so many.
    """

    def __init__(self, relevance: Relevance) -> None:
        self.items = relevance.shape[1]
        self.n_relevant, queries = np.unique(relevance.counts[relevance.counts > 0], return_counts=True)
        self.share = queries / queries.sum()

    def hit_rate(self, k: int) -> float:
        """The probability that a query's best rank is at most k."""
        return float(self.share @ (1 - _chance_of_no_hit(self.items, self.n_relevant, min(k, self.items))))


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number made of ranks. To add one is to add an entry to METRICS: tables, reports and flags are made from these.

    of_queries: the value of each query, (Q',). at_random: what the random row says, exactly; None: nobody knows.
    is_rank: a rank, not a percentage; is_median: over the queries, not their mean. shown: "narrow", in every table;
    "wide", in tables that have room for more; "stored", in files only.
    """

    of_queries: Callable[[RankedQueries], np.ndarray]
    at_random: Callable[[RandomOrder], float] | None
    is_rank: bool = False
    lower_is_better: bool = False
    is_median: bool = False
    shown: str = "wide"

    @property
    def digits(self) -> int:
        """How many decimals are printed."""
        return 1 if self.is_rank else 2


def _hit(k: int, shown: str = "wide") -> Metric:
    return Metric(lambda q: 100 * (q.hits(k) > 0), lambda o: 100 * o.hit_rate(k), shown=shown)


def _recall(k: int) -> Metric:
    return Metric(
        lambda q: 100 * q.hits(k) / q.n_relevant,
        lambda o: 100 * min(k, o.items) / o.items,
        shown="stored",
    )


def _precision(k: int, shown: str = "wide") -> Metric:
    return Metric(
        lambda q: 100 * q.hits(k) / k,
        lambda o: 100 * (o.share @ o.n_relevant) * min(k, o.items) / (o.items * k),
        shown=shown,
    )


def _ndcg(k: int, shown: str = "wide") -> Metric:
    def of_queries(q: RankedQueries) -> np.ndarray:
        gain = np.where(q.ranks <= k, 1 / np.log2(1 + q.ranks), 0)
        return 100 * q.total(gain) / _ideal_gain(q.n_relevant, k)

    def at_random(o: RandomOrder) -> float:
        gain = o.n_relevant / o.items * _ideal_gain(np.array([o.items]), k) / _ideal_gain(o.n_relevant, k)
        return float(100 * o.share @ gain)

    return Metric(of_queries, at_random, shown=shown)


def _median_best_rank(order: RandomOrder) -> float:
    """The median of the best rank of a random query: hit_rate is its distribution function, bisected for one half."""
    low, high = 1, order.items
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if order.hit_rate(middle) > 0.5 - 1e-9 else (middle + 1, high)
    return low + (0.5 if abs(order.hit_rate(low) - 0.5) < 1e-9 else 0)


def _random_mean_precision(order: RandomOrder) -> float:
    n, r = order.items, order.n_relevant
    harmonic = (1 / np.arange(1, n + 1)).sum()
    return float(100 * order.share @ ((harmonic + (r - 1) / max(n - 1, 1) * (n - harmonic)) / n))


def _random_reciprocal_rank(order: RandomOrder) -> float:
    n, r = order.items, order.n_relevant
    harmonic = _harmonic(n)
    return float(100 * order.share @ (r / (n - r + 1) * (harmonic[n] - harmonic[r - 1])))


def _map_at_r(q: RankedQueries) -> np.ndarray:
    counted = q.ranks <= np.repeat(q.n_relevant, q.n_relevant)
    return 100 * q.total(np.where(counted, q.place / q.ranks, 0)) / q.n_relevant


def _random_map_at_r(order: RandomOrder) -> float:
    n, r = order.items, order.n_relevant
    harmonic = _harmonic(n)[r]
    return float(100 * order.share @ ((harmonic + (r - 1) / max(n - 1, 1) * (r - harmonic)) / n))


METRICS = {  # docs/METRICS.md defines them
    **{f"R@{k}": _hit(k, "narrow") for k in (1, 5, 10)},
    **{f"R@{k}": _hit(k) for k in (20, 50, 100)},
    **{f"recall@{k}": _recall(k) for k in (1, 5, 10, 20, 50)},
    "P@10": _precision(10, "narrow"),
    **{f"P@{k}": _precision(k) for k in (20, 50)},
    "MdR": Metric(
        lambda q: q.best, _median_best_rank, is_rank=True, lower_is_better=True, is_median=True, shown="narrow"
    ),
    "MnR": Metric(
        lambda q: q.best,
        lambda o: o.share @ ((o.items + 1) / (o.n_relevant + 1)),
        is_rank=True,
        lower_is_better=True,
        shown="narrow",
    ),
    "mAP": Metric(lambda q: 100 * q.total(q.place / q.ranks) / q.n_relevant, _random_mean_precision, shown="narrow"),
    "nDCG@10": _ndcg(10, "narrow"),
    "MRR": Metric(lambda q: 100 / q.best, _random_reciprocal_rank),
    "MAP@R": Metric(_map_at_r, _random_map_at_r),
}
UNITS = "in %, but the ranks " + " and ".join(name for name, metric in METRICS.items() if metric.is_rank)


def shown_metrics(wide: bool = True) -> tuple[str, ...]:
    """The names of the metrics that a table has a column for."""
    return tuple(name for name, metric in METRICS.items() if metric.shown in ("narrow", *["wide"] * wide))


def per_query_metrics(
    ranks: ArrayLike, query: ArrayLike, n_queries: int, n_items: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """-> (the names of METRICS, values (Q', their number)): one row per query with a relevant item, ascending.

    ranks, query: (P,) 1-based rank of each relevant pair and the query it belongs to. The columns MdR and MnR
    hold the best rank, whose median and mean they become. InputError when there is no pair at all.
    """
    ranks, query = np.asarray(ranks), np.asarray(query)
    if not len(ranks):
        raise InputError("no query has a relevant item: there is nothing to average")
    if ranks.min() < 1 or ranks.max() > n_items or query.min() < 0 or query.max() >= n_queries:
        raise ValueError(f"a rank is outside 1 ... {n_items}, or a query outside 0 ... {n_queries - 1}")
    order = np.lexsort((ranks, query))
    ranks, query = ranks[order], query[order]
    if ((np.diff(query) == 0) & (np.diff(ranks) == 0)).any():
        raise ValueError("two relevant items of a query have the same rank")
    return values_of(RankedQueries(ranks, query))


def values_of(ranked: RankedQueries) -> tuple[tuple[str, ...], np.ndarray]:
    """-> (the names of METRICS, values (Q', their number)): a row per query."""
    columns = [metric.of_queries(ranked) for metric in METRICS.values()]
    return tuple(METRICS), np.stack(columns, axis=1).astype(np.float64)


def average(names: Iterable[str], values: np.ndarray) -> dict[str, float]:
    """dict name -> float over the queries (rows of `values`): the median for MdR, the mean for all others."""
    return {
        name: float((np.median if METRICS[name].is_median else np.mean)(column))
        for name, column in zip(names, values.T, strict=True)
    }


def retrieval_metrics(ranks: ArrayLike, query: ArrayLike, n_queries: int, n_items: int) -> dict[str, float]:
    """dict of all METRICS -> float; the arguments are per_query_metrics'."""
    return average(*per_query_metrics(ranks, query, n_queries, n_items))


def bootstrap_intervals(
    names: Sequence[str], values: np.ndarray, seed: int = 0, resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """dict name -> (low, high): 95 % percentile bootstrap interval over the queries (rows of `values`)."""
    n = len(values)
    generator = np.random.default_rng(seed)
    sampled = np.empty((resamples, len(names)))
    step = max(1, TILE_ELEMENTS // 2 // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = generator.integers(n, size=(stop - start, n))
        places = (drawn + n * np.arange(stop - start)[:, None]).ravel()
        times = np.bincount(places, minlength=n * (stop - start)).reshape(-1, n)
        sampled[start:stop] = times.astype(np.float64) @ values / n
        for column in (i for i, name in enumerate(names) if METRICS[name].is_median):
            sampled[start:stop, column] = np.median(values[:, column][drawn], axis=1)
    low, high = np.percentile(sampled, (2.5, 97.5), axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}


def random_expectation(relevance: Relevance) -> dict[str, float]:
    """dict of the METRICS that have a closed form -> their expectation when each query's order is drawn uniformly.

    MdR, a median over the queries, is the median of the best rank's distribution: random query, random order.
    """
    if not len(relevance.query):
        raise InputError("no query has a relevant item: there is nothing to average")
    order = RandomOrder(relevance)
    return {name: float(metric.at_random(order)) for name, metric in METRICS.items() if metric.at_random is not None}


class ScoreRows(Protocol):
    """Scores (Q, M) that are read in blocks of queries: an array, also a memory-mapped one, or what computes them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def fit_weights(qi: ScoreRows, qc: ScoreRows, relevance: Relevance) -> tuple[float, float]:
    """-> (a, b), a >= 0, b >= 0, a + b <= LARGEST_SUM: the coefficients of the sum that tells the relevant memes best.

    They minimise InfoNCE of a * QI + b * QC over the whole gallery: minus the log-probability of a relevant meme in the
    softmax over all memes, the mean over a query's relevant memes, then over the queries that have one. That is convex;
    projected Newton's method in float64 finds the minimum. Its bound is that of CLIP's logit scale: where the scores
    leave no relevant meme behind another, more would always be better. A part that gains less than LEAST_SLOPE nats per
    unit gets 0; so both are 0 where neither matrix says anything.

    qi, qc: (Q, M), also memory-mapped: they are read in blocks of queries. InputError on NaN or infinity.
    """
    if qi.shape != relevance.shape or qc.shape != relevance.shape:
        raise ValueError(f"QI is {qi.shape}, QC is {qc.shape}, the relevance is {relevance.shape}")
    if not len(relevance.query):
        raise InputError("no query has a relevant item: there is nothing to fit")
    point = np.zeros(2)
    value, slope, curvature = _info_nce(qi, qc, relevance, point)
    for iteration in range(100):
        step = _lowest_in_triangle(point, slope, curvature) - point
        expected = -float(slope @ step)
        if expected < 1e-10:  # in nats; the next step of a method that doubles the digits is the last one
            point = point + step if iteration else point
            break
        length = 1.0
        while True:
            tried = point + length * step
            found = _info_nce(qi, qc, relevance, tried)
            if found[0] <= value - 1e-4 * length * expected or length < 1e-6:
                break
            length /= 2
        point, (value, slope, curvature) = tried, found
    a, b = np.maximum(point, 0).tolist()
    return a, b


def share_of_first(a: float, b: float) -> float:
    """alpha, whose alpha * QI + (1 - alpha) * QC orders memes as a * QI + b * QC does; 0.5 where both are 0."""
    return a / (a + b) if a + b > 0 else 0.5


def weighted_sum(matrices: Iterable[np.ndarray], weights: Iterable[float]) -> np.ndarray:
    """The fused scores, sum of weight * matrix, in at least float32."""
    fused = sum(float(weight) * _as_scores(matrix) for weight, matrix in zip(weights, matrices, strict=True))
    assert isinstance(fused, np.ndarray), "no matrix was given"
    return fused


def format_table(
    rows: Iterable[tuple[str, Mapping[str, float], Mapping[str, Sequence[float]] | None]],
    columns: Sequence[str] | None = None,
) -> str:
    """The table as text; rows: list of (name, metrics, intervals or None).

    The dicts are those of `average` and `bootstrap_intervals`. A row with intervals takes two lines.
    """
    columns = shown_metrics(wide=False) if columns is None else columns
    lines = [["", *columns]]
    for name, metrics, intervals in rows:
        digits = [METRICS[column].digits for column in columns]
        lines.append(
            [name, *(f"{metrics[c]:.{d}f}" if c in metrics else "–" for c, d in zip(columns, digits, strict=True))]
        )
        if intervals is not None:
            ends = ((intervals.get(c), d) for c, d in zip(columns, digits, strict=True))
            lines.append(["", *(f"[{pair[0]:.{d}f},{pair[1]:.{d}f}]" if pair else "" for pair, d in ends)])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]).rstrip()
        for first, *rest in lines
    )


def _as_scores(tile: ArrayLike) -> np.ndarray:
    """The array as real floats of 32 or 64 bits (float32 and float64 are not copied)."""
    tile = np.asarray(tile)
    if tile.dtype.kind not in "biuf" or tile.dtype.itemsize > 8:
        raise InputError(f"scores must be real numbers of at most 64 bits, not {tile.dtype}")
    return tile.astype(np.result_type(tile.dtype, np.float32), copy=False)


def _check_finite(tile: np.ndarray, row: int, column: int) -> None:
    finite = np.isfinite(tile)
    if not finite.all():
        i, j = np.unravel_index(finite.argmin(), tile.shape)
        raise NotFinite(f"the score of query {row + i}, meme {column + j} is {tile[i, j]}; it must be finite")


def _info_nce(
    qi: ScoreRows, qc: ScoreRows, relevance: Relevance, point: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """-> (value, slope (2,), curvature (2, 2)) at point = (a, b) of the loss that `fit_weights` minimises."""
    n_queries, n_memes = relevance.shape
    value, slope, curvature, judged = 0.0, np.zeros(2), np.zeros((2, 2)), 0
    height = max(1, TILE_ELEMENTS // 8 // n_memes)
    for start in range(0, n_queries, height):
        part = relevance.queries(start, min(start + height, n_queries))
        rows = np.flatnonzero(part.counts)
        if not len(rows):
            continue
        both = []
        for matrix in (qi, qc):
            block = _as_scores(matrix[start : start + part.shape[0]])
            _check_finite(block, start, 0)
            block = block[rows].astype(np.float64)
            both.append(block - block[:, :1])  # a shift of a row changes nothing, and leaves zeros of a constant one
        row, count = np.searchsorted(rows, part.query), part.counts[rows]
        own = [np.bincount(row, weights=block[row, part.meme]) / count for block in both]
        logits = point[0] * both[0] + point[1] * both[1]
        highest = logits.max(axis=1)
        chance = np.exp(logits - highest[:, None])
        total = chance.sum(axis=1)
        chance /= total[:, None]
        value += float((np.log(total) + highest - point[0] * own[0] - point[1] * own[1]).sum())
        for i, block in enumerate(both):
            mean = np.einsum("qm,qm->q", chance, block)
            slope[i] += (mean - own[i]).sum()
            block -= mean[:, None]
        curvature += [[np.einsum("qm,qm,qm->", chance, one, other) for other in both] for one in both]
        judged += len(rows)
    return value / judged + LEAST_SLOPE * point.sum(), slope / judged + LEAST_SLOPE, curvature / judged


def _lowest_in_triangle(point: np.ndarray, slope: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Where the parabola through `point` is lowest, of a >= 0, b >= 0, a + b <= LARGEST_SUM."""
    curvature = curvature + np.diag(1e-10 * np.diag(curvature) + 1e-30)  # of two equal matrices: the middle
    inside = point - np.linalg.solve(curvature, slope)
    if inside.min() >= 0 and inside.sum() <= LARGEST_SUM:
        return inside
    corners = LARGEST_SUM * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        edge, way = corners[other] - corners[one], corners[one] - point
        along = -(slope + curvature @ way) @ edge / (edge @ curvature @ edge)
        place = corners[one] + min(max(along, 0.0), 1.0) * edge
        way = place - point
        found.append((float(slope @ way + way @ curvature @ way / 2), place.tolist()))
    return np.array(min(found)[1])


def _count_at_least(rows: np.ndarray, line: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many entries of row line[i] of `rows` are >= scores[i]: int64, as long as `line`."""
    return rows.shape[1] - _count_below(_sorted_rows(rows), line, scores)


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    ordered = np.array(rows, order="C")
    ordered.sort(axis=1)
    return ordered


def _count_below(ordered: np.ndarray, line: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many entries of row line[i] of `ordered`, whose rows are sorted, are < scores[i]: int64, as long as `line`.

    All are searched at once, one bit of the position per step.
    """
    width = ordered.shape[1]
    below = np.zeros(len(line), np.int64)
    for bit in reversed(range(width.bit_length())):
        candidate = below + (1 << bit)
        inside = candidate <= width
        last = ordered[line, np.minimum(candidate, width) - 1]
        below = np.where(inside & (last < scores), candidate, below)
    return below


def _strict_ranks(line: np.ndarray, scores: np.ndarray, at_least: np.ndarray) -> np.ndarray:
    """Ranks of pairs from the number of scores >= their own in their line; in a tie irrelevant ones lead.

    So k equal relevant scores get the last k of the places which that score takes, in the order of the pairs.
    """
    ranks = np.empty(len(line), np.int64)
    if not len(line):
        return ranks
    order = np.lexsort((scores, line))
    is_new = np.concatenate(([True], (np.diff(line[order]) != 0) | (np.diff(scores[order]) != 0)))
    start = np.flatnonzero(is_new)
    size = np.diff(np.append(start, len(line)))
    position = np.arange(len(line)) - np.repeat(start, size) + 1
    ranks[order] = at_least[order] - np.repeat(size, size) + position
    return ranks


def _ideal_gain(n_relevant: np.ndarray, k: int) -> np.ndarray:
    """DCG at k of an order which puts n_relevant items first."""
    gains = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    return gains[np.minimum(n_relevant, k) - 1]


def _harmonic(n: int) -> np.ndarray:
    """(n + 1,) the harmonic numbers, from the 0th, which is 0, on."""
    return np.concatenate([[0], np.cumsum(1 / np.arange(1, n + 1))])


def _chance_of_no_hit(n: int, r: np.ndarray, k: int) -> np.ndarray:
    """Probability that none of r relevant items (an array) is among the first k of n in a random order."""
    log_factorial = np.vectorize(lambda x: math.lgamma(x + 1), otypes=[float])
    rest = np.maximum(n - r - k, 0)
    log = log_factorial(n - r) - log_factorial(rest) - log_factorial(n) + log_factorial(n - k)
    return np.where(n - r < k, 0, np.exp(log))


def shape_text(shape: Sequence[int]) -> str:
    return f"{shape[0]} queries x {shape[1]} memes"


def load_array(path: str | os.PathLike[str]) -> np.ndarray | np.lib.npyio.NpzFile:
    """np.load, memory-mapped and never unpickling; InputError names the file."""
    try:
        with np.errstate(over="ignore"):  # of a header's absurd shape, which is refused
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OverflowError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).partition(" If you trust")[0]  # NumPy's advice to unpickle is not ours
        raise InputError(f"{path}: cannot be read as a NumPy file without pickle: {reason}") from None
    if isinstance(loaded, np.ndarray) and not loaded.dtype.itemsize:
        raise InputError(f"{path}: found {loaded.dtype} of shape {loaded.shape}, whose elements take no bytes")
    return loaded


def read_archive(
    archive: np.lib.npyio.NpzFile, names: Iterable[str], at_most: int = UNPACKED_BYTES
) -> dict[str, np.ndarray]:
    """{name: array} of an open .npz, after a look at how large the arrays are.

    ValueError: they take more than `at_most` bytes and than UNPACKED_TIMES the file, or one is not as large as its
    header says; what else NumPy and zipfile raise of a damaged file.
    """
    names, zipped = list(names), archive.zip
    assert zipped is not None and zipped.fp is not None, "the archive is closed"
    entries = {name: zipped.getinfo(name if name in zipped.namelist() else f"{name}.npy") for name in names}
    unpacked = sum(entry.file_size for entry in entries.values())
    allowed = max(at_most, UNPACKED_TIMES * zipped.fp.seek(0, os.SEEK_END))
    if unpacked > allowed:
        raise ValueError(
            f"its arrays take {unpacked:,} bytes, of which at most {allowed:,} are read from a compressed file of this "
            "size; np.savez writes larger ones"
        )
    for name, entry in entries.items():
        with zipped.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            size, elements = entry.file_size - file.tell(), math.prod(map(int, shape))
        if not dtype.hasobject and (dtype.itemsize * elements != size or (elements and not dtype.itemsize)):
            raise ValueError(f"'{name}' is {dtype} of shape {shape} by its header, and has {size:,} bytes")
    return {name: archive[name] for name in names}


def _nonzero(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the ones of a dense 0/1 matrix, in blocks of rows -> (query, meme)."""
    if dense.ndim != 2 or not dense.size or dense.dtype.kind not in "biuf":
        raise InputError(f"expected a matrix of 0 and 1, found {dense.dtype} of shape {dense.shape}")
    found, step = [], max(1, TILE_ELEMENTS // dense.shape[1])
    for start in range(0, len(dense), step):
        block = dense[start : start + step]
        bad = (block != 0) & (block != 1)
        if bad.any():
            i, j = np.unravel_index(bad.argmax(), bad.shape)
            raise InputError(f"relevance must be 0 or 1; query {start + i}, meme {j} has {block[i, j]}")
        query, meme = np.nonzero(block)
        found.append((query + start, meme))
    queries, memes = (np.concatenate(part) for part in zip(*found, strict=True))
    return queries, memes


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of the command line's matrices; returns the exit code (2: a fault in the input)."""
    from evaluation.metrics_command import main

    return main(argv)


if __name__ == "__main__":
    sys.exit(main())
