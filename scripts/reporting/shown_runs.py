"""The records of finished runs, and what tells the runs apart."""

import json
from dataclasses import dataclass
from pathlib import Path

from dataloaders.communities import COMMUNITIES
from engine.arguments import NOT_CHECKED_ON_RESUME, TRAINING_ONLY, default_values
from engine.earlier_names import renamed
from engine.methods import METHODS
from evaluation.query_record import FILE_NAME, QueryRecord
from scripts.reporting.later_metrics import complete
from scripts.reporting.record_shape import (
    ALPHA,
    EVALUATION,
    LOSSES,
    MEASURE,
    check,
    check_of_one_run,
    check_records,
)
from util import InputError, read_json

NOT_SETTINGS = NOT_CHECKED_ON_RESUME | {"datatype", "batch_size_val"}  # no result depends on these either
NEVER_DIFFERENT = NOT_SETTINGS | {"do_train", "seed"}  # from a default: each run has its own


@dataclass
class Run:
    """What a run left. args, start, metrics: args.json, run.json, metrics.json. losses, evaluations: the lines of
    losses.jsonl and those of metrics.jsonl on val; [] where nothing was trained. record: QueryRecord of the test split.
    """

    folder: Path
    args: dict
    start: dict
    metrics: dict
    losses: list
    evaluations: list
    record: QueryRecord
    name: str = ""

    @property
    def scores(self):
        """{score: {direction: {"metrics", "intervals"}}} on test."""
        return self.metrics["test"]["scores"]

    @property
    def trained(self):
        return self.metrics["best_epoch"] is not None

    @property
    def has_two_branches(self):
        return {"qi", "qc"} <= self.record.ranks.keys()

    @property
    def fits_each_epoch(self):
        """Whether the weights were fitted on val after each epoch."""
        joint = self.has_two_branches and self.args.get("co_train") == "joint"
        return joint and self.args["fusion"] != "fixed" and self.args.get("fusion_data") == "val"

    def per_query(self, metric, score="fused"):
        """(Q,) the metric of each query on test."""
        names, values = self.record.values(score)
        return values[:, names.index(metric)]


def read_runs(folders):
    """The runs in the order given, with names of their own. InputError where one is unfinished or damaged, is given
    twice, or where their queries, memes or relevant pairs are not the same.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        if [other.resolve() for other in folders].count(folder.resolve()) > 1:
            raise InputError(f"{folder} is given twice")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        check_comparable(runs[0], run)
    name_runs(runs)
    return runs


def read_run(folder):
    """One Run, still without a name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected that of a run (its --output_dir)")
    for name in ("args.json", "metrics.json", "test_queries.npz"):
        if not (folder / name).is_file():
            why = "the run is not finished" if (folder / "args.json").is_file() else "it is not the folder of a run"
            raise InputError(f"{folder}: found no {name}, so {why}; expected a finished run")
    metrics, args = renamed(read_json(folder / "metrics.json")), read_json(folder / "args.json")
    start = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    check_records(folder, metrics, args, start or None)
    run = Run(
        folder=folder,
        args=args,
        start=start,
        metrics=metrics,
        losses=read_lines(folder / "losses.jsonl", {}),
        evaluations=[line for line in read_lines(folder / "metrics.jsonl", {"split": str}) if line["split"] == "val"],
        record=QueryRecord.load(folder),
    )
    check_of_one_run(folder, metrics, run.record)
    check_report(run)
    complete(metrics, run.record, intervals=True)
    return run


def check_report(run):
    """InputError where a record lacks what only the report shows."""
    path = run.folder / "metrics.json"
    changes = run.has_two_branches and run.args.get("co_train") != "staged" and run.args["fusion"]
    for number, line in enumerate(run.losses, 1):
        check(
            run.folder / "losses.jsonl",
            line,
            LOSSES | {"alpha": float if changes == "learned" else MEASURE},
            f"line {number}",
        )
    for number, line in enumerate(run.evaluations, 1):
        shape = EVALUATION | ({"alpha": ALPHA} if changes == "query" or run.fits_each_epoch else {})
        check(run.folder / "metrics.jsonl", line, shape, f"evaluation {number} on val")
    check(run.folder / "args.json", run.args, {"data_path": (None, str), "datatype": set(COMMUNITIES)})
    best = run.metrics["best_epoch"]
    if best and run.evaluations and best["stage"] not in {line["stage"] for line in run.evaluations}:
        raise InputError(
            f"{path}: found the best epoch in a stage {best['stage']}, of which metrics.jsonl says nothing"
        )
    if not run.record.relevance.counts.all():
        raise InputError(f"{run.folder / FILE_NAME}: found a query without a relevant meme, which no test split has")


def read_lines(path, shape):
    """The objects of a .jsonl file, [] where there is none. shape: of each one (record_shape.py)."""
    if not path.is_file():
        return []
    found = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found.append(renamed(json.loads(line)))
            check(path, found[-1], shape, f"line {number}")
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: line {len(found) + 1} is not JSON: {error}") from None
    return found


def check_comparable(first, other):
    """InputError which says in what the test splits of two runs differ."""
    for ids, what in (("topic_ids", "queries"), ("image_ids", "memes")):
        found, expected = (getattr(run.record, ids).tolist() for run in (other, first))
        if found != expected:
            place = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if len({*pair}) == 2), None)
            detail = f"; the first difference: {found[place]!r} and {expected[place]!r}" if place is not None else ""
            raise InputError(
                f"{other.folder}: the {what} of the test split are not those of {first.folder}: {len(found):,} and "
                f"{len(expected):,} {ids}{detail}. Runs are compared on the same queries and memes"
            )
    pairs = [(run.record.relevance.query.tolist(), run.record.relevance.meme.tolist()) for run in (first, other)]
    if pairs[0] != pairs[1]:
        raise InputError(f"{other.folder}: other memes are relevant to the queries than in {first.folder}")


def name_runs(runs):
    """Give each run a name of its own: method and seed, else the folder's; where several share it, with the path."""
    for run in runs:
        method = run.args.get("method")
        run.name = f"{method} (seed {run.args.get('seed')})" if method else run.folder.resolve().name
    names = [run.name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if names.count(name) > 1:
            run.name = f"{name}, {run.folder}"


def title(run):
    """The method's title in the tables, "" without a method."""
    method = METHODS.get(run.args.get("method"))
    if method is None:
        return ""
    return f"IEF, {method.changes} → {method.title}" if method.group == "ablation" else method.title


def unusual_flags(run):
    """[(flag, value)] of what differs from the defaults of main_task_retrieval.py; of a reference all its settings."""
    defaults = default_values()
    return [
        (flag, shown(value))
        for flag, value in run.args.items()
        if flag not in NEVER_DIFFERENT and (flag not in defaults or value != defaults[flag])
    ]


def different_flags(before, after):
    """["flag: value → value"] of the settings which two runs both have, and which differ.

    Those of the training count only if both were trained.
    """
    ignored = NOT_SETTINGS if before.trained and after.trained else NOT_SETTINGS | TRAINING_ONLY
    return [
        f"{flag}: {shown(value)} → {shown(after.args[flag])}"
        for flag, value in before.args.items()
        if flag not in ignored and flag in after.args and after.args[flag] != value
    ]


def shown(value):
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
