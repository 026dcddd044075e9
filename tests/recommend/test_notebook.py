"""docs/use.ipynb runs, cell by cell, and so does the Python of docs/USE.md."""

import ast
import contextlib
import io
import json
import re
import shutil
import sys

import pytest

from preprocess.demo.wording import TOPICS
from preprocess.make_demo import MEMES_PER_TOPIC
from tests.conftest import ROOT
from tests.recommend.models import indexed, save_model
from tests.tiny_community import Place, read_csv, write_csv

NOTEBOOK = json.loads((ROOT / "docs" / "use.ipynb").read_text(encoding="utf-8"))


def execute(cells, names):
    """Run the code cells: [(what each printed, the value of its last line)]."""
    results = []
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "cell", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
        results.append((printed.getvalue(), value))
    return results


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run's folder and a community, as the notebook looks for them."""
    place = Place(tmp_path_factory.mktemp("notebook"), train=2, val=1, test=2)
    run = place.folder / "run"
    run.mkdir()
    shutil.copy(save_model(place, "model")[0], run / "checkpoint_best.pt")
    return run, place.data


def test_every_cell_runs(demo, monkeypatch):
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = {}
    first, *cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert first["metadata"]["tags"] == ["parameters"]
    execute([first], names)
    assert names["ROOT"] == ROOT and names["RUN"] == ROOT / "runs" / "demo"
    names["RUN"], names["DATA"] = demo
    results = execute(cells, names)
    assert results[0][0] == "40 memes\n"
    assert results[1][0].count("QI") == 5
    assert results[2][1]._repr_html_().count("<img") == 5
    assert all(printed or value for printed, value in results)


def test_the_python_of_the_documentation_runs_and_names_memes_of_the_demo(demo, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "USE.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.S))
    of_demo = {
        f"{topic}-{split}{n:02d}" for topic in TOPICS for split, most in MEMES_PER_TOPIC.items() for n in range(most)
    }
    ids = sorted(set(re.findall(r'"(\w+-\w+-\w+)"', code)))
    assert len(ids) == 2 and set(ids) <= of_demo
    rows = {row["image"]: row for row in read_csv(demo[1] / "test.csv")}
    write_csv(tmp_path / "test.csv", [row | {"image_id": name} for name, row in zip(ids, rows.values(), strict=False)])
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo[1] / "images" / next(iter(rows)), "a.png")
    index = tmp_path / "runs" / "demo" / "index"
    index.parent.mkdir(parents=True)
    indexed(demo[0] / "checkpoint_best.pt", index, demo[1] / "images", data_path=tmp_path)
    names = {}
    exec(compile(code, "docs/USE.md", "exec"), names)
    assert len(names["answer"]) > 0 and not set(ids) & {meme.id for meme in names["answer"]}


def test_what_is_kept_of_a_run_is_whole():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert [bool(cell["outputs"]) for cell in code] == [False] + [True] * (len(code) - 1)
