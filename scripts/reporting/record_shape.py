"""What the records of a finished run have to look like, and how they are checked, before anything is made of them.

A shape is str, bool, int (whole) or float (finite, whole ones too); None; a set of texts; [shape], a list of any
length; [shape, shape], a list of two; {name: shape}, an object with at least these, of which `name?` may be missing;
{str: shape}, an object of any names; a tuple of shapes, one of which it is.
"""

import json
import math

from dataloaders.communities import COMMUNITIES
from evaluation.query_record import FILE_NAME
from metrics import average
from scripts.reporting.curves import ON_VAL
from util import InputError

LARGEST = 2.0**53  # of a whole number; what a run counts is far below
NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number", None: "null"}
COUNT, MEASURE = (None, int), (None, float)
ALPHA = {"mean": float, "min": float, "max": float}
GAINED = {"gain": float, "interval": [float, float]}
PLACE = {"stage": str, "epoch": float}
GAIN = {"part": {"qi", "qc"}, "chosen_by": str, "metrics": {"mAP": GAINED, "R@1": GAINED, str: GAINED}}
VALUES = {"metrics": {str: float}}  # a run has the metrics of its time: later_metrics.py fills in the others
RANDOM = dict.fromkeys(("query_to_meme", "meme_to_query"), VALUES)
RESULTS = {
    **{"command": str, "seed": int, "device": str, "processes": int, "method?": (None, str)},
    **{"versions?": {str: str}, "peak_memory_mib?": (None, {str: float}), "records_per_second?": MEASURE},
    **{"parameters?": (None, {"all": COUNT, "trained": COUNT}), "seconds": (None, {str: MEASURE})},
    "counts?": (None, {str: {"records": int, "topics": int, "memes": int}}),
    "best_epoch": (None, {**PLACE, "val": {str: float}}),
    "alpha": (None, ALPHA),
    "trained_alpha?": MEASURE,
    "test": {
        **{"queries": int, "memes": int, "relevant_pairs": int, "random": RANDOM},
        "fused_minus_the_better_part?": (None, GAIN),
        "scores": {str: {direction: {**VALUES, "intervals": {str: [float, float]}} for direction in RANDOM}},
    },
}
SETTING = (None, str, bool, float, [(str, bool, float)])
SETTINGS = {
    str: SETTING,
    **{"fusion?": {"learned", "query", "fixed"}, "co_train?": {"joint", "staged"}, "datatype?": set(COMMUNITIES)},
    **{f"{name}?": (None, str) for name in ("method", "select_metric", "data_path", "test_csv", "features_path")},
}
ORIGIN = {
    "code": {"version": str, "commit": (None, str)},
    "data": {str: {"csv": str, "images": (None, str)}, "test": {"csv": str, "images": (None, str)}},
}
LOSSES = {**PLACE, "step": float, "losses": {str: float}, "alpha": MEASURE}
EVALUATION = {
    **{**PLACE, "step": float, "alpha?": (None, ALPHA), "trained_alpha?": MEASURE},
    "scores": {str: {"query_to_meme": {"metrics": dict.fromkeys(ON_VAL, float)}}},
}


def check(path, value, shape, where=""):
    """InputError, which names the file `path` and the place in it, where a JSON value is not of a shape."""
    options = shape if isinstance(shape, tuple) else (shape,)
    chosen = next((option for option in options if is_of_kind(value, option)), "none")
    if chosen == "none":
        expected = " or ".join(map(named, options))
        raise InputError(f"{path}: found {shown(value)}{where and ' at '}{where}, expected {expected}, as a run writes")
    if isinstance(chosen, list):
        if len(chosen) > 1 and len(value) != len(chosen):
            raise InputError(f"{path}: found {shown(value)}{where and ' at '}{where}, expected one of {len(chosen)}")
        for place, item in enumerate(value, 1):
            check(path, item, chosen[0], f"{where}, item {place}" if where else f"item {place}")
    elif isinstance(chosen, dict):
        check_object(path, value, chosen, where)


def check_object(path, value, shape, where):
    known = {name.removesuffix("?"): own for name, own in shape.items() if name is not str}
    for name in shape:
        if name is not str and not name.endswith("?") and name not in value:
            raise InputError(f"{path}: found no {name!r}{where and ' at '}{where}, expected what a run writes")
    for name, item in value.items():
        check(path, name, str, f"the names of {where or 'it'}")
        own = known.get(name, shape.get(str))
        if own is not None or name in known:
            check(path, item, own, f"{where} > {name}" if where else name)


def is_of_kind(value, shape):
    """Whether a value may be of a shape, without a look at what it holds."""
    if shape is None or shape is bool:
        return value is None if shape is None else isinstance(value, bool)
    if isinstance(shape, set):
        return isinstance(value, str) and value in shape
    if isinstance(shape, list | dict):
        return isinstance(value, type(shape))
    if shape is str:  # half of a surrogate pair cannot be written into any file
        return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    kinds = (int,) if shape is int else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def named(shape):
    if isinstance(shape, set):
        return f"one of {', '.join(sorted(shape))}"
    return "a list" if isinstance(shape, list) else "an object" if isinstance(shape, dict) else NAMES[shape]


def shown(value):
    """A value as it stands in the file, shortened; of an object and a list only what it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_records(folder, results, settings, origin):
    """InputError where metrics.json, args.json or run.json (None: there is none) of a finished run's folder is
    damaged.
    """
    check(folder / "metrics.json", results, RESULTS)
    check(folder / "args.json", settings, SETTINGS)
    if origin is not None:
        check(folder / "run.json", origin, ORIGIN)
    if results["alpha"] is not None or len(results["test"]["scores"]) > 1:
        check(folder / "args.json", settings, {"fusion": str})


def check_of_one_run(folder, results, record):
    """InputError where metrics.json and a QueryRecord of a folder do not say the same: (names of METRICS, (Q', their
    number) values of the fused score) else.
    """
    path, test = folder / "metrics.json", results["test"]
    apart = f"as in {FILE_NAME} beside it: the two are not of one run"
    if test["scores"].keys() != record.ranks.keys():
        raise InputError(
            f"{path}: found the scores {', '.join(test['scores'])}, expected {', '.join(record.ranks)}, {apart}"
        )
    sizes = (*record.relevance.shape, len(record.relevance.query))
    for name, size in zip(("queries", "memes", "relevant_pairs"), sizes, strict=True):
        if test[name] != size:
            raise InputError(f"{path}: found {test[name]} {name.replace('_', ' ')}, expected {size}, {apart}")
    for score in record.ranks:
        names, values = record.values(score)
        own = average(names, values)
        for name, found in test["scores"][score]["query_to_meme"]["metrics"].items():
            if name in own and not math.isclose(own[name], found, rel_tol=1e-6):
                raise InputError(f"{path}: found {name} {found:.4f}, expected {own[name]:.4f}, {apart}")
    gain = test.get("fused_minus_the_better_part")
    if gain is not None and gain["part"] not in record.ranks:
        raise InputError(f"{path}: found the better part {gain['part']}, expected one of the scores, {apart}")
    return record.values()
