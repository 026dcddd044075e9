"""run.json: what a run was made from. A change of the code or of the data has to show."""

import shutil
import subprocess

import pytest

from dataloaders.data_version import data_version
from dataloaders.meme_records import read_splits
from engine import run_record
from tests.conftest import ROOT
from tests.tiny_community import Place, read_json, run


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, train=2, val=1, test=1)


def version_of(folder, names=("train", "val", "test")):
    paths = {name: folder / f"{name}.csv" for name in names}
    return data_version(paths, read_splits(paths, folder / "images")[0], folder / "images")


def test_a_run_keeps_the_versions_of_its_code_and_data(place):
    code, printed = run(place.flags("run", "--epochs", "1", "--branches", "qi", "--caption_fusion", "none"))
    assert code == 0, printed
    record = read_json(place.folder / "run" / "run.json")
    assert record["data"] == version_of(place.data)
    assert record["code"] == run_record.code_version()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert record["code"]["commit"] == (commit or None)


def rewrite(path, before="happy", after="sad"):
    """Replace a text in a file; returns whether it was there."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(before, after), encoding="utf-8")
    return before in text


def spoil(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("change", "kind", "splits"),
    [
        (lambda data: rewrite(data / "train.csv"), "csv", {"train"}),
        (lambda data: spoil(data / "images" / "val_red_0.gif"), "images", {"val"}),
        (lambda data: (data / "images" / "test_red_0.gif").unlink(), "images", {"test"}),
        (lambda data: (data / "images" / "new.png").write_bytes(b"x"), "images", set()),
    ],
)
def test_a_change_of_the_data_shows_in_its_split_alone(place, change, kind, splits):
    before = version_of(place.data)
    change(place.data)
    after = version_of(place.data)
    changed = {(name, part) for name in before for part in before[name] if before[name][part] != after[name][part]}
    assert changed == {(name, kind) for name in splits}


def test_without_images(place):
    shutil.rmtree(place.data / "images")
    assert {version["images"] for version in version_of(place.data).values()} == {None}


def test_a_change_of_the_code_shows(tmp_path, monkeypatch):
    for name in run_record.SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    here = run_record.code_version()["version"]
    monkeypatch.setattr(run_record, "ROOT", tmp_path)
    version = run_record.code_version()
    assert version["version"] == here
    assert version == {"version": version["version"], "commit": None}  # the copy is no repository
    (tmp_path / "modules" / "notes.txt").write_text("not code")
    rewrite(tmp_path / "engine" / "methods.py", "METHODS", "OTHERS")
    assert run_record.code_version() == version
    for path in tmp_path.rglob("*.py"):  # as in a checkout with core.autocrlf
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert run_record.code_version() == version
    spoil(tmp_path / "dataloaders" / "cells.py")  # no longer Python
    assert run_record.code_version()["version"] != version["version"]


SOURCE = '''"""What this is."""


def twice(x):  # of any number
    """Twice x."""
    return {"factor": 2}["factor"] * x
'''


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("# of any number", "", True),
        ("What this is.", "Something else.", True),
        ('    """Twice x."""\n', "", True),
        ('"factor": 2}["factor"] * x', '"factor": 2}[\n        "factor"\n    ] * (x)  # é', True),
        ("2", "3", False),
        ("2", "2.0", False),
        (": 2", ": None", False),
        ("twice", "double", False),
        ("(x)", "(x=None)", False),
        ('"""Twice x."""', 'word = """Twice x."""', False),
        ("return", "return (", False),  # no longer Python
    ],
)
def test_only_what_may_change_a_result_makes_another_version(tmp_path, monkeypatch, before, after, same):
    monkeypatch.setattr(run_record, "ROOT", tmp_path)
    path = tmp_path / "file.py"
    path.write_text(SOURCE, encoding="utf-8")
    version = run_record.code_version(["file.py"])
    assert rewrite(path, before, after)
    assert (run_record.code_version(["file.py"]) == version) == same
