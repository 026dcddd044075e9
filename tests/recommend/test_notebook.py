"""docs/use.ipynb runs, cell by cell, and its code is formatted."""

import ast
import contextlib
import io
import json
import shutil
import sys

import pytest

from tests.conftest import ROOT
from tests.recommend.models import save_model
from tests.tiny_community import Place

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


def test_what_is_kept_of_a_run_is_whole():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert [bool(cell["outputs"]) for cell in code] == [False] + [True] * (len(code) - 1)
