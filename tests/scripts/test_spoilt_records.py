"""Records that someone has edited: the report and the tables end with a sentence that names the file, or take them.

Every value of a run's files is replaced by ones of other kinds, and every name removed, one at a time.
"""

import copy
import json
import shutil

import numpy as np
import pytest

from evaluation.query_record import FILE_NAME
from scripts import make_tables
from scripts.reporting.page import page
from scripts.reporting.shown_runs import read_runs
from scripts.reporting.tested_community import read_community
from tests.scripts.run_folders import evaluation, loss, write_community, write_run, write_run_on
from util import InputError

WRONG = (None, True, float("nan"), "\ud800", [[1]], {"a": []})
ALIKE = ("metrics", "intervals", "scores", "fused", "random")  # the entries of these objects are


SETTINGS = (
    *("method", "seed", "fusion", "co_train", "branches", "select_metric", "epochs", "loss_weights", "datatype"),
    *("data_path", "test_csv", "features_path", "skip_bad_images"),
)


def places(value, name="", path=()):
    """The paths of all values inside a JSON value; of entries that are alike only the first and the last one's."""
    yield path
    if isinstance(value, dict) and "output_dir" in value:  # args.json: the settings that something is made of
        value = {key: item for key, item in value.items() if key in SETTINGS}
    entries = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if name in ALIKE or isinstance(value, list):
        entries = entries[:1] + entries[1:][-1:]
    for key, item in entries:
        yield from places(item, key, (*path, key))


def changed(value, path, new):
    """A copy with another value at the path; `new` is `removed`: without it."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is removed:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def removed():
    """Stands for no value at all."""


def spoilt(path):
    """(what was done, the file's text) for each change of a .json file, or of the first and last line of a .jsonl."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        lines = text.splitlines()
        for change, line in spoilt_value(json.loads(lines[0])):
            yield change, "\n".join([line, *lines[1:]]) + "\n"
    else:
        yield from spoilt_value(json.loads(text))
    yield "cut", text[: len(text) // 2]
    yield "nested", "[" * 100_000
    yield "empty", ""


def spoilt_value(value):
    for path in places(value):
        for new in (*WRONG, *([removed] if path else [])):
            yield f"{path} = {new!r}", json.dumps(changed(value, path, new))


def spoilt_arrays(path):
    """(what was done, {name: array}) for each change of the .npz file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, array in arrays.items():
        for what, other in {
            "gone": None,
            "shorter": array[:-1],
            "longer": np.concatenate([array, array[:1]]) if len(array) else np.zeros(3),
            "a number": np.array(3),
            "texts": np.full(array.shape, "x"),
            "negative": np.full(array.shape, -7),
            "too large": np.full(array.shape, 10**9),
            "not a number": np.full(array.shape, np.nan),
            "one more axis": array[None],
            "bytes": np.full(array.shape, b"\xff"),
        }.items():
            yield f"{name} {what}", {key: value for key, value in (arrays | {name: other}).items() if value is not None}


def outcome(path, make):
    """What is wrong with the way a program takes a spoilt file; empty where nothing is."""
    try:
        make()
    except InputError as error:
        text = str(error)
        return "" if str(path.parent) in text and "\n" not in text and len(text) < 1000 else f"says {text!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def failures(folder, make):
    """{file and change: what happened}, for all changes of all files of a run's folder, and how many there were."""
    found, count = {}, 0
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jsonl"), folder / FILE_NAME]):
        whole = path.read_bytes()
        for change, spoilt_file in spoilt_arrays(path) if path.suffix == ".npz" else spoilt(path):
            count += 1
            if path.suffix == ".npz":
                np.savez(path, **spoilt_file)
            else:
                path.write_text(spoilt_file, encoding="utf-8")
            if what := outcome(path, make):
                found[f"{path.name} {change}"] = what
        path.write_bytes(whole)
    return found, count


@pytest.fixture
def folder(tmp_path):
    """A run with everything that the report shows."""
    pairs = [(0, 0), (0, 1), (1, 2), (2, 3)]
    community = write_community(tmp_path / "community", ["a", "b", "c"], [{}] * 4, pairs)
    scores = np.random.default_rng(0).normal(size=(3, 4))
    lines = [evaluation("joint", epoch, epoch * 2, 0.5, qi=10.0, qc=20.0, fused=30.0) for epoch in (1, 2)]
    return write_run_on(
        tmp_path / "run",
        community,
        {name: scores + number for number, name in enumerate(("qi", "qc", "fused"))},
        alpha=[0.2, 0.5, 0.8],
        words=[[("a", 1.0)], [("b", 0.4), ("c", 0.6)], []],
        evaluations=lines,
        losses=[
            loss("joint", step / 2, step, 0.5, total=3.0 / step, qi=1.0, qc=1.0, fused=1.0) for step in (1, 2, 3, 4)
        ],
        changes={"best_epoch": {"stage": "joint", "epoch": 2, "val": {"mAP": 30.0}}, "records_per_second": 3.5},
        fusion="query",
        method="ief_per_query",
    )


def test_the_report_names_a_spoilt_record(folder):
    def make():
        runs = read_runs([folder])
        page(runs, read_community(runs), progress=False)

    make()
    shutil.rmtree(folder.parent / "community" / "images")
    (folder.parent / "community" / "images").mkdir()  # no picture has to be made each time
    found, count = failures(folder, make)
    assert count > 800
    assert not found, f"{len(found)} of {count}: {dict(list(found.items())[:20])}"


def test_tables_name_a_spoilt_record(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.tables.spreads.LEAST_RESAMPLES", 10)
    monkeypatch.setattr("scripts.tables.spreads.RESAMPLES_PER_COMPARISON", 1)
    monkeypatch.setattr(make_tables, "write_text", lambda *_: None)  # else most of the time is the disk's
    monkeypatch.setattr("scripts.tables.csv_files.write", lambda path, columns, rows: list(rows))
    write_run(tmp_path / "runs", "demo", "clip4clip_meanp")
    folder = write_run(tmp_path / "runs", "demo", "ief")

    def make():
        make_tables.make_tables(tmp_path / "runs", tmp_path / "out")

    make()
    found, count = failures(folder, make)
    assert count > 300
    assert not found, f"{len(found)} of {count}: {dict(list(found.items())[:20])}"
