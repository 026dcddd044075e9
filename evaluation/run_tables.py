"""TREC runs -> a table of their metrics, of which the last digit is trec_eval's, and what the runs lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.trec_runs import Qrels, ranks_in_run, read_run
from metrics import METRICS, RankedQueries, average, bootstrap_intervals, format_table, values_of
from util import InputError


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """A run's metrics. What depends on a rank that the run does not tell is in none of the dicts.

    names, values: as `values_of` returns them, a row per query; means: over the queries; printed: these, with the
    digits that trec_eval prints; intervals: {name: (low, high)}.
    """

    names: tuple[str, ...]
    values: np.ndarray
    means: dict[str, float]
    printed: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def score_ranks(ranked: RankedQueries, seed: int) -> ScoredRun:
    """The metrics of a run's ranks; the seed is the intervals'."""
    names, values = values_of(ranked)
    known = np.isfinite(values).all(axis=0)
    chosen = [name for name, is_known in zip(names, known, strict=True) if is_known]
    means = {name: value for name, value in average(names, values).items() if np.isfinite(value)}
    intervals = bootstrap_intervals(chosen, values[:, known], seed)
    return ScoredRun(names, values, means, means | _as_trec_prints(names, values), intervals)


def report_runs(runs: Mapping[str, str], qrels_path: str, as_trec: bool, seed: int) -> dict[str, Any]:
    """Print a table, query to meme, and what each run lacks; returns what --json stores.

    runs: {name: path}; as_trec: whether equal scores are ordered as by trec_eval. What depends on a rank that a run
    does not tell has no number. InputError: a file is damaged, or a run has none of the queries.
    """
    qrels = Qrels.load(qrels_path)
    rows, notes, stored = [], [], []
    for name, path in runs.items():
        run = read_run(path)
        if not run.keys() & qrels.relevant.keys():
            raise InputError(f"{path}: found none of the queries that {qrels_path} has relevant memes of")
        ranked = ranks_in_run(run, qrels, as_trec)
        scored = score_ranks(ranked, seed)
        rows.append((name, scored.printed, scored.intervals))
        lacking = {
            "queries_without_a_line": len(qrels.relevant.keys() - run.keys()),
            "relevant_memes_not_found": int(np.isinf(ranked.ranks).sum()),
            "other_queries": len(run.keys() - qrels.relevant.keys()),
        }
        notes.append(f"{name}: {_told(*lacking.values())}")
        stored.append({"name": name, "metrics": scored.means, "intervals": scored.intervals} | lacking)
    left_out = f" ({qrels.without:,} more have nothing relevant: left out)" if qrels.without else ""
    pairs = sum(map(len, qrels.relevant.values()))
    print(f"query to meme: {len(qrels.relevant):,} queries{left_out}, {pairs:,} relevant pairs")
    print(format_table(rows), end="\n\n")
    print(*notes, sep="\n")
    print("equal scores: " + ("as trec_eval orders them" if as_trec else "relevant memes come last"))
    return {"ties": "trec" if as_trec else "last", "query_to_meme": {"queries": len(qrels.relevant), "rows": stored}}


def _as_trec_prints(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """The means that are percentages, with the digits that trec_eval prints.

    It adds fractions up, one query after the other, and prints four digits: where a mean is halfway between two of
    them, a percentage may be rounded the other way.
    """
    sums = np.add.accumulate(values / 100, axis=0)[-1]
    means = zip(names, (sums / len(values)).tolist(), strict=True)
    return {name: 100 * round(mean, 4) for name, mean in means if not METRICS[name].is_rank}


def _told(absent: int, missed: int, other: int) -> str:
    counts = [
        (absent, "queries are not in it: they count as 0"),
        (missed, "relevant memes are not in it: they count as never found"),
        (other, "of its queries have nothing relevant: they are left out"),
    ]
    return "; ".join(f"{count:,} {what}" for count, what in counts if count) or "every relevant meme is in it"
