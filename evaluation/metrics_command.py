"""The command line of metrics.py: saved similarity matrices -> tables, and weights fitted on a part of the queries."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.run_tables import report_runs
from evaluation.significance import paired_bootstrap, randomisation_test
from metrics import (
    UNITS,
    Relevance,
    average,
    bootstrap_intervals,
    fit_weights,
    format_table,
    load_array,
    per_query_metrics,
    random_expectation,
    ranks_from_rows,
    shape_text,
    share_of_first,
    weighted_sum,
)
from util import InputError, Parser, program, write_json

Row = tuple[str, dict[str, float], dict[str, tuple[float, float]] | None]  # name, metrics, intervals
LEGEND = f"all {UNITS}; [low,high]: 95 % bootstrap interval (1,000 resamples, seed {{}})"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="metrics.py",
        description="Retrieval metrics of saved similarity matrices (queries x memes), in both directions, or of TREC "
        "runs.",
    )
    parser.add_argument(
        "matrices",
        nargs="+",
        metavar="MATRIX.npy",
        help="similarity matrices of one shape; with --qrels: TREC runs",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="one per matrix: adds the row of their weighted sum",
    )
    parser.add_argument(
        "--fit_weights",
        action="store_true",
        help="of two matrices: fit the weights on one part of the queries, report on the other part",
    )
    parser.add_argument(
        "--val_fraction",
        type=float,
        default=0.5,
        metavar="F",
        help="share of the queries that --fit_weights fits on, drawn with --seed (default: %(default)s)",
    )
    parser.add_argument(
        "--relevance",
        metavar="FILE",
        help=".npy (0/1, queries x memes) or .npz (query, meme, shape); default: the diagonal",
    )
    parser.add_argument(
        "--qrels", metavar="FILE", help="of TREC runs: what is relevant, `query iteration meme grade`, or BEIR's .tsv"
    )
    parser.add_argument(
        "--ties",
        choices=("last", "trec"),
        default="last",
        help="of TREC runs: equal scores put relevant memes last (default), or are ordered as by trec_eval",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all the metrics and their intervals there")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of the command line's matrices; returns the exit code (2: a fault in the input)."""
    args = build_parser().parse_args(argv)
    try:
        result: dict[str, Any] = {"weights": args.weights, "seed": args.seed}
        if args.qrels is not None:
            result |= _report_runs(args)
            print(LEGEND.format(args.seed))
        else:
            matrices, relevance = _read_inputs(args)
            if args.fit_weights:
                result |= _report_fitted(matrices, relevance, args.val_fraction, args.seed)
            else:
                result |= _report(matrices, relevance, args.weights, args.seed)
        if args.json:
            write_json(args.json, result)
    except BrokenPipeError:  # nobody reads the tables
        raise
    except (InputError, OSError) as error:
        print(f"metrics.py: error: {error}", file=sys.stderr)
        return 2
    return 0


def _read_inputs(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], Relevance]:
    """-> (dict name -> matrix, relevance), all of one shape."""
    if args.ties != "last":
        raise InputError("--ties is of TREC runs, which go with --qrels")
    names = _names(args.matrices)
    if args.weights is not None and (len(args.weights) != len(names) or not np.isfinite(args.weights).all()):
        raise InputError(f"--weights: expected {len(names)} finite numbers, one per matrix; found {args.weights}")
    if args.fit_weights and (len(names) != 2 or args.weights is not None):
        given = " and --weights" if args.weights is not None else ""
        raise InputError(f"--fit_weights: expected two matrices and no --weights; found {len(names)} matrices{given}")
    if not 0 < args.val_fraction < 1:
        raise InputError(f"--val_fraction: expected a number between 0 and 1, found {args.val_fraction}")
    _check_shared(args)
    matrices = dict(zip(names, map(_open_matrix, args.matrices), strict=True))
    shape = matrices[names[0]].shape
    if args.relevance is None and shape[0] != shape[1]:
        raise InputError(f"{args.matrices[0]}: {shape_text(shape)}: not square, so that --relevance is needed")
    relevance = Relevance.load(args.relevance) if args.relevance else Relevance.diagonal(shape[0])
    for name, matrix in matrices.items():
        if matrix.shape != relevance.shape:
            of = args.relevance or names[0]
            raise InputError(f"{name}: {shape_text(matrix.shape)}; {of}: {shape_text(relevance.shape)}")
    return matrices, relevance


def _check_shared(args: argparse.Namespace) -> None:
    """InputError where a flag that matrices and runs have in common makes no sense."""
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, found {args.seed}")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"--json: {Path(args.json).parent} is not a folder")


def _names(paths: Sequence[str]) -> Sequence[str]:
    """The files' names without their endings, or the paths where those are not all different."""
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    if len(set(names)) < len(names):
        raise InputError("a file is given twice")
    return names


def _report_runs(args: argparse.Namespace) -> dict[str, Any]:
    if args.weights is not None or args.fit_weights or args.relevance is not None:
        raise InputError("--qrels goes with TREC runs, --weights, --fit_weights and --relevance with matrices")
    _check_shared(args)
    runs = dict(zip(_names(args.matrices), args.matrices, strict=True))
    return report_runs(runs, args.qrels, args.ties == "trec", args.seed)


def _open_matrix(path: str) -> np.ndarray:
    matrix = load_array(path)
    if isinstance(matrix, np.lib.npyio.NpzFile) or matrix.ndim != 2:
        found = "an archive" if isinstance(matrix, np.lib.npyio.NpzFile) else f"shape {matrix.shape}"
        raise InputError(f"{path}: expected one matrix, queries x memes, found {found}")
    return matrix


def _report(
    matrices: Mapping[str, np.ndarray], relevance: Relevance, weights: Sequence[float] | None, seed: int
) -> dict[str, Any]:
    """Print a table per direction, with the weighted sum's row if there are weights; returns what --json stores."""
    readers: dict[str, Callable[[slice], np.ndarray]] = {name: m.__getitem__ for name, m in matrices.items()}
    if weights is not None:
        readers["fused"] = lambda rows: weighted_sum([m[rows] for m in matrices.values()], weights)
    ranks = {name: _ranks(name, read_rows, relevance) for name, read_rows in readers.items()}
    transposed = relevance.transposed()
    directions = (
        ("query_to_meme", "queries", "memes", relevance, relevance.query),
        ("meme_to_query", "memes", "queries", transposed, relevance.meme),
    )
    result = {}
    for direction, (key, lines, items, judged, line) in enumerate(directions):
        rows: list[Row] = [("random", random_expectation(judged), None)]
        for name, pair in ranks.items():
            names, values = per_query_metrics(pair[direction], line, *judged.shape)
            rows.append((name, average(names, values), bootstrap_intervals(names, values, seed)))
        n_lines = judged.shape[0] - judged.skipped
        left_out = f" ({judged.skipped:,} more have nothing relevant: left out)" if judged.skipped else ""
        print(
            f"{key.replace('_', ' ')}: {n_lines:,} {lines}{left_out}, {judged.shape[1]:,} {items}, "
            f"{len(line):,} relevant pairs"
        )
        print(format_table(rows), end="\n\n")
        result[key] = {lines: n_lines, "skipped": judged.skipped, "rows": _named(rows)}
    if weights is not None:
        print("fused = " + " + ".join(f"{w} * {name}" for w, name in zip(weights, matrices, strict=True)))
    print(LEGEND.format(seed))
    return result


def _report_fitted(
    matrices: Mapping[str, np.ndarray], relevance: Relevance, val_fraction: float, seed: int
) -> dict[str, Any]:
    """Fit the weights of two matrices on a part of the queries, report on the rest; returns what --json stores.

    What the fused score gains is measured against the matrix which is the better one on the fitted part. The
    oracle's weights are fitted on the reported queries themselves: no method may know them.
    """
    judged = np.flatnonzero(relevance.counts)
    n_val = round(val_fraction * len(judged))
    if not 0 < n_val < len(judged):
        raise InputError(
            f"--val_fraction: {val_fraction} of {len(judged)} queries with a relevant meme leaves a part empty"
        )
    shuffled = np.random.default_rng(seed).permutation(judged)
    val, rest = np.sort(shuffled[:n_val]), np.sort(shuffled[n_val:])
    first, second = matrices
    qi, qc = matrices.values()
    coefficients, oracle = (fit_weights(qi, qc, relevance.pairs_of(some)) for some in (val, rest))
    alpha, oracle_alpha = share_of_first(*coefficients), share_of_first(*oracle)
    weights = {
        first: (1.0, 0.0),
        second: (0.0, 1.0),
        "fused": (alpha, 1 - alpha),
        "oracle": (oracle_alpha, 1 - oracle_alpha),
    }
    on_val = {name: _val_map(name, matrices, relevance, val, weights[name]) for name in (first, second, "fused")}
    single = second if on_val[second] > on_val[first] else first
    part = _part(relevance, rest)
    rows: list[Row] = [("random", random_expectation(part), None)]
    per_query: dict[str, np.ndarray] = {}
    for name, pair in weights.items():
        ranks = _ranks(name, _Rows(matrices, rest, pair).read, part)[0]
        names, per_query[name] = per_query_metrics(ranks, part.query, *part.shape)
        rows.append((name, average(names, per_query[name]), bootstrap_intervals(names, per_query[name], seed)))
    column = names.index("mAP")
    compared = per_query["fused"][:, column], per_query[single][:, column]
    gain, low, high, p_bootstrap = paired_bootstrap(*compared, seed=seed)
    p_randomisation = randomisation_test(*compared, seed=seed)
    print(
        f"weights fitted on {n_val:,} queries ({coefficients[0]:.2f} and {coefficients[1]:.2f}, mAP there "
        f"{on_val['fused']:.2f}): fused = {_sum(first, second, alpha)}"
    )
    print(
        f"query to meme, the other {len(rest):,} queries, {part.shape[1]:,} memes, {len(part.query):,} relevant pairs"
    )
    print(format_table(rows), end="\n\n")
    print(
        f"gain of fused over {single} (the better one on the fitted part) in mAP:"
        f" {gain:+.2f} [{low:+.2f},{high:+.2f}]\n"
        f"p = {p_bootstrap:.4f} (paired bootstrap), {p_randomisation:.4f} (randomisation test), 10,000 resamples each"
    )
    print(f"oracle = {_sum(first, second, oracle_alpha)}, fitted on the reported queries themselves: no result")
    print(LEGEND.format(seed))
    return {
        "fitted": {
            "val_fraction": val_fraction,
            "val_queries": n_val,
            "weights": [alpha, 1 - alpha],
            "coefficients": list(coefficients),
            "val_mAP": on_val["fused"],
        },
        "query_to_meme": {"queries": len(rest), "rows": _named(rows)},
        "gain": {
            "over": single,
            "mAP": gain,
            "interval": [low, high],
            "p_bootstrap": p_bootstrap,
            "p_randomisation": p_randomisation,
        },
        "oracle": {"weights": [oracle_alpha, 1 - oracle_alpha]},
    }


def _val_map(
    name: str,
    matrices: Mapping[str, np.ndarray],
    relevance: Relevance,
    queries: np.ndarray,
    weights: Sequence[float],
) -> float:
    """mAP, query to meme, of the weighted sum on some queries (ascending)."""
    part = _part(relevance, queries)
    ranks = _ranks(name, _Rows(matrices, queries, weights).read, part)[0]
    return average(*per_query_metrics(ranks, part.query, *part.shape))["mAP"]


def _part(relevance: Relevance, queries: np.ndarray) -> Relevance:
    """The relevance of some queries (ascending) alone, numbered from 0."""
    kept = np.isin(relevance.query, queries)
    return Relevance(
        np.searchsorted(queries, relevance.query[kept]), relevance.meme[kept], (len(queries), relevance.shape[1])
    )


class _Rows:
    """Some rows of the weighted sum of matrices, computed where they are asked for."""

    def __init__(self, matrices: Mapping[str, np.ndarray], queries: np.ndarray, weights: Sequence[float]) -> None:
        self.matrices, self.queries, self.weights = list(matrices.values()), queries, weights
        self.shape = len(queries), self.matrices[0].shape[1]

    def read(self, rows: slice) -> np.ndarray:
        return weighted_sum([m[self.queries[rows]] for m in self.matrices], self.weights)


def _ranks(name: str, read_rows: Callable[[slice], np.ndarray], relevance: Relevance) -> tuple[np.ndarray, np.ndarray]:
    try:
        return ranks_from_rows(read_rows, relevance)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _named(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [{"name": name, "metrics": values, "intervals": intervals} for name, values, intervals in rows]


def _sum(first: str, second: str, alpha: float) -> str:
    return f"{alpha:.2f} * {first} + {1 - alpha:.2f} * {second}"
