"""Reads RUNS/<community>/<method>/seed_<n>/, a run each, and checks that what is compared may be compared."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from dataloaders.communities import COMMUNITIES
from engine.earlier_names import renamed
from engine.methods import METHODS, Method
from evaluation.query_record import QueryRecord
from scripts.reporting.later_metrics import complete
from scripts.reporting.record_shape import check_of_one_run, check_records
from scripts.reporting.weights import gain_of_fusing
from util import InputError, read_json

NO_RUNS = "no runs"
COSTS = {  # name in cost.csv: where it is in metrics.json
    "training_seconds": ("seconds", "training"),
    "val_seconds": ("seconds", "evaluation_on_val"),
    "records_per_second": ("records_per_second",),
    "peak_host_mib": ("peak_memory_mib", "host"),
    "peak_device_mib": ("peak_memory_mib", "device"),
    "parameters": ("parameters", "all"),
    "trained_parameters": ("parameters", "trained"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run. values: (Q', metrics.METRICS) of each test query that has a relevant meme, query to meme.

    part_values: the same of the part, QI or QC, that was better on val (`gain`, of metrics.json), where it is known.
    metrics, random: {metric: value} over the queries. test_split: a checksum of the topics, memes and relevant pairs.
    costs: {name of COSTS: number, or None where the run has none}.
    """

    folder: Path
    seed: int
    settings: dict
    code: dict
    data: dict
    test_split: str
    values: np.ndarray
    metrics: dict
    random: dict
    alpha: dict | None
    gain: dict | None
    part_values: np.ndarray | None
    best: dict | None
    counts: dict
    costs: dict
    device: str
    processes: int


@dataclasses.dataclass(frozen=True)
class MethodRuns:
    """The runs of a method on a community.

    expected: the seeds that a full row has; started: folders of a run; left_out: {seed: why its run is left out}.
    """

    method: Method
    runs: list
    started: int
    expected: tuple
    left_out: dict

    @property
    def missing(self):
        """Why there are no numbers; empty where there are some."""
        if self.runs:
            return ""
        if self.left_out:
            return "; ".join(dict.fromkeys(self.left_out.values()))
        return "not finished" if self.started else "not run"

    @property
    def status(self):
        if self.missing or len(self.runs) == len(self.expected):
            return self.missing or "complete"
        return f"{len(self.runs)} of {len(self.expected)} seeds"

    @property
    def _incomplete(self):
        return f" ({self.status})" if self.status.endswith("seeds") else ""

    @property
    def setting(self):
        """The method's title, with the number of runs where some are missing."""
        return self.method.title + self._incomplete

    @property
    def title(self):
        """As `setting`; an ablation with the part that it changes."""
        return full_title(self.method) + self._incomplete


def full_title(method):
    """A method's title; of an ablation with the part that it changes, without what that is else."""
    part = method.changes.partition(" (")[0]
    return f"IEF, {part}: {method.title}" if part else method.title


@dataclasses.dataclass(frozen=True)
class CommunityRuns:
    """A community. methods: {name: MethodRuns}; absent: why there is nothing of it, empty where there is something."""

    slug: str
    methods: dict
    absent: str = ""

    @property
    def title(self):
        return COMMUNITIES[self.slug].name if self.slug in COMMUNITIES else self.slug

    @property
    def runs(self):
        return [run for entry in self.methods.values() for run in entry.runs]


def read_communities(root, communities=None, methods=None, seeds=None, absent=None, left_out=None):
    """-> ([CommunityRuns], folders whose names are no method's).

    communities, methods, seeds: what the tables are of; None: all that have a folder of a run. absent: {community:
    why it has no runs}. left_out: {(community, method, seed): why}, runs whose folders are not read. InputError: no
    such folder or method, no run at all, a damaged record, runs of a community that are of different test splits.
    """
    found, unknown = find_folders(Path(root))
    absent = absent or {}
    # {community: {method: {seed: a folder, or why the run that would be there is left out}}}
    for (community, method, seed), reason in (left_out or {}).items():
        found.setdefault(community, {}).setdefault(method, {})[seed] = reason
    if wrong := [name for name in methods or () if name not in METHODS]:
        raise InputError(f"--methods {wrong[0]}: no such method, expected some of {', '.join(METHODS)}")
    if communities is None and not found:
        raise InputError(f"{root}: found no run, expected folders <community>/<method>/seed_<n>")
    if wrong := [name for name in communities or () if name not in {*found, *absent, *COMMUNITIES}]:
        raise InputError(f"--communities {wrong[0]}: no runs in {root}, which has {', '.join(sorted(found))}")
    slugs = set(found if communities is None else communities) | set(absent)
    order = {slug: place for place, slug in enumerate(COMMUNITIES)}
    slugs = sorted(slugs, key=lambda slug: (order.get(slug, len(order)), slug))
    here = {slug: found.get(slug, {}) for slug in slugs}
    if methods is None:
        methods = {name for of_community in here.values() for name in of_community}
    methods = [METHODS[name] for name in METHODS if name in methods]
    asked = tuple(dict.fromkeys(seeds or ()))
    if seeds is None:
        of_methods = [(METHODS[name], folders) for of in here.values() for name, folders in of.items()]
        seeds = sorted({seed for method, folders in of_methods if method.seeded for seed in folders})
    seeds = tuple(sorted(set(seeds)))
    result = []
    for slug, folders in here.items():
        reason = "" if folders else absent.get(slug, NO_RUNS)
        entries = {} if reason else {m.name: read_method(m, folders.get(m.name, {}), seeds, asked) for m in methods}
        result.append(CommunityRuns(slug, entries, reason))
        check_test_split(result[-1].runs)
    return result, unknown


def find_folders(root):
    """-> ({community: {method: {seed: folder}}}, ["community/method" that is no method])."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected one with <community>/<method>/seed_<n>/")
    found, unknown = {}, []
    for folder in sorted(root.glob("*/*/seed_*")):
        seed = re.fullmatch(r"seed_(\d+)", folder.name)
        if seed is None or not folder.is_dir():
            continue
        method, community = folder.parent.name, folder.parent.parent.name
        if method in METHODS:
            found.setdefault(community, {}).setdefault(method, {})[int(seed[1])] = folder
        elif f"{community}/{method}" not in unknown:
            unknown.append(f"{community}/{method}")
    return found, unknown


def read_method(method, entries, seeds, asked):
    """MethodRuns of {seed: folder, or why its run is left out}.

    A method without a seed has one run: that of the first seed, in the order `asked`, which has a finished one, else
    that of the lowest. Where a run that is left out comes first, there is none: an older one is no substitute.
    """
    left_out = {seed: entry for seed, entry in entries.items() if isinstance(entry, str)}
    folders = {seed: entry for seed, entry in entries.items() if seed not in left_out}
    finished = {seed: folder for seed, folder in folders.items() if (folder / "metrics.json").is_file()}
    if method.seeded:
        chosen, expected = seeds, seeds
    else:
        order = dict.fromkeys([*asked, *sorted(entries)])
        chosen, expected = [seed for seed in order if seed in finished or seed in left_out][:1], (0,)
    runs = [read_run(finished[seed], method, seed) for seed in chosen if seed in finished]
    started = len(folders.keys() & set(seeds)) if method.seeded else len(folders)
    return MethodRuns(method, runs, started, expected, {s: left_out[s] for s in chosen if s in left_out})


def read_run(folder, method, seed):
    """The Run of the folder of a Method's seed; InputError names the file that is missing, damaged or another run's."""
    results, settings, origin = (read_json(folder / f"{name}.json") for name in ("metrics", "args", "run"))
    results, record = renamed(results), QueryRecord.load(folder)
    check_records(folder, results, settings, origin)
    _, values = check_of_one_run(folder, results, record)
    complete(results, record)
    for what, found, expected in (("method", results.get("method"), method.name), ("seed", results["seed"], seed)):
        if found is not None and found != expected and (what == "method" or method.seeded):
            raise InputError(
                f"{folder / 'metrics.json'}: found {what} {found}, expected {expected} in a folder of this name"
            )
    test, gain = results["test"], gain_of_fusing(results)
    return Run(
        folder=folder,
        seed=seed,
        settings=settings,
        code=origin["code"],
        data=origin["data"],
        test_split=checksum(record),
        values=values,
        metrics=test["scores"]["fused"]["query_to_meme"]["metrics"],
        random=test["random"]["query_to_meme"]["metrics"],
        alpha=results["alpha"],
        gain=gain,
        part_values=None if gain is None else record.values(gain["part"])[1],
        best=results["best_epoch"],
        counts={name: test[name] for name in ("queries", "memes", "relevant_pairs")},
        costs={name: cost(results, keys) for name, keys in COSTS.items()},
        device=results["device"],
        processes=results["processes"],
    )


def unusable(runs, folders, left_out):
    """{(community, method, seed): why} of finished runs that would stop the tables of the others, and are to be named.

    runs: of scripts.reproduce, which has looked at these itself; left_out: those of them, in this form, that are not
    made. folders: {community: {method: {seed: folder}}}, all that there are.
    """
    made = {(run.community, run.method.name, run.seed): run for run in runs}
    first = {}  # {community: the Run with whose test split all others are compared}
    for key, run in made.items():
        if key not in left_out and run.community not in first:
            first[run.community] = read_run(run.folder, run.method, run.seed)
    found = {}
    for community, methods in folders.items():
        for name, of_seeds in methods.items():
            for seed, folder in of_seeds.items():
                if (community, name, seed) in made or not (folder / "metrics.json").is_file():
                    continue
                try:
                    run = read_run(folder, METHODS[name], seed)
                    check_test_split([first.setdefault(community, run), run])
                except InputError as error:
                    found[community, name, seed] = str(error)
    return found


def cost(results, keys):
    """The number at a path of keys; None where there is none: a reference method is not trained."""
    value = results
    for key in keys:
        value = value.get(key) if value is not None else None
    return None if value is None else float(value)


def checksum(record):
    """A checksum of a QueryRecord's topics, memes and relevant pairs."""
    digest = hashlib.sha256()
    for ids in (record.topic_ids, record.image_ids):
        digest.update(json.dumps(ids.tolist()).encode())
    for places in (record.relevance.query, record.relevance.meme):
        digest.update(places.astype("<i8").tobytes() + b"|")
    return digest.hexdigest()


def check_test_split(runs):
    """InputError names two runs of a community that are not of the same test split."""
    for run in runs[1:]:
        for what, same in (
            ("list of topics, memes or relevant pairs", run.test_split == runs[0].test_split),
            ("test CSV", run.data["test"]["csv"] == runs[0].data["test"]["csv"]),
        ):
            if not same:
                raise InputError(
                    f"{runs[0].folder} and {run.folder}: found another {what}, expected runs of one test split"
                )
