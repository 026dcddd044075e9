"""docs/EXTEND.md as it stands: its additions in a copy of the repository, the tests that it names, and its commands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.scripts.run_folders import relevance_of, write_run
from tests.tiny_community import draw_community

PAGE = (ROOT / "docs" / "EXTEND.md").read_text(encoding="utf-8")
COPIED = ("dataloaders", "docs", "engine", "evaluation", "modules", "pages", "preprocess", "scripts", "tests")
NOT_COPIED = ("earlier_version", "__pycache__", "*.pt", "*.png", "*.svg")
FAST = ["--epochs", "1", "--batch_size", "16", "--num_thread_reader", "0", "--cross_num_hidden_layers", "1"]
CHECKED = [
    *("tests/modules/test_soft.py", "tests/modules/test_toy.py", "tests/modules/test_interaction.py"),
    *("tests/modules/test_emotion_encoder.py", "tests/engine/test_methods.py", "tests/engine/test_model_page.py"),
    *("tests/engine/test_arguments.py", "tests/test_metrics.py"),
    *("-k", "soft or toy or prompt or model_page or script or document_defines or expectation"),
]
# One process, since to start costs more than all else: the page's commands, then its tests
PROGRAM = """
import json, sys
import pytest
from main_task_retrieval import main as train
from scripts.make_tables import main as tables
trained, tabled, tests = json.loads(sys.argv[1])
sys.exit(train(trained) or tables(tabled) or pytest.main(["-p", "no:cacheprovider", *tests]))
"""


def add(root, language, text):
    """Make one of the page's additions to the copy at `root`."""
    heading, _, body = text.partition("\n")
    if language == "diff":
        path, lines = root / heading.removeprefix("+++ "), body.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line.startswith(" "))
        old = path.read_text(encoding="utf-8")
        assert old.count(before) == 1, f"{path} has {old.count(before)} times:\n{before}"
        path.write_text(old.replace(before, "".join(line[1:] for line in lines)), encoding="utf-8")
    elif heading.startswith("# at the end of "):
        with open(root / heading.removeprefix("# at the end of "), "a", encoding="utf-8") as file:
            file.write("\n\n" + body)
    else:
        assert not (path := root / heading.removeprefix("# ")).exists()
        path.write_text(body, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with the page's additions, a community, and a run from before."""
    root = tmp_path_factory.mktemp("extended") / "ief"
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns(*NOT_COPIED))
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.sh"), *ROOT.glob("*.txt"), ROOT / "pyproject.toml"]:
        shutil.copy(path, root)
    draw_community(root / "data" / "office_memes", train=2, val=1, test=1)
    write_run(root / "results" / "runs", "demo", "ief", scores=old_scores())
    for language, text in re.findall(r"^```(diff|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        add(root, language, text)
    return root


def old_scores():
    return np.random.default_rng(3).normal(size=relevance_of().shape)


def commands():
    """The lines of the page's blocks of commands."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", "").splitlines()


def test_the_additions_of_the_page_work(copy):
    copied, trained, tabled = commands()
    subprocess.run(copied, shell=True, cwd=copy, check=True)
    trained, tabled = shlex.split(trained), shlex.split(tabled)
    assert trained[:2] == ["python", "main_task_retrieval.py"] and tabled[:3] == ["python", "-m", "scripts.make_tables"]
    lines = json.dumps([[*trained[2:], *FAST], tabled[3:], CHECKED])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, lines], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    settings = json.loads((copy / "runs" / "office" / "args.json").read_text(encoding="utf-8"))
    assert (settings["interaction"], settings["emotion_encoder"]) == ("soft", "prompt")
    results = json.loads((copy / "runs" / "office" / "metrics.json").read_text(encoding="utf-8"))
    assert "R-precision" in results["best_epoch"]["val"]
    lines = (copy / "results" / "tables" / "tables.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if "|" in line]
    [heading] = [row for row in rows if "R-precision" in row]
    cells = {row[1]: row[heading.index("R-precision")] for row in rows if len(row) == len(heading)}
    relevance, shares = relevance_of(), []
    for query in range(relevance.shape[0] - 1):  # the last one has nothing relevant
        relevant = set(relevance.meme[relevance.query == query].tolist())
        first = np.argsort(-old_scores()[query])[: len(relevant)].tolist()
        shares.append(len(relevant & set(first)) / len(relevant))
    assert cells["IEF"] == f"{100 * np.mean(shares):.2f}"
    chance = 100 * np.mean(relevance.counts[:-1]) / relevance.shape[1]
    assert cells["random ranking"] == f"{chance:.2f}"
