"""What commit c74d3f9 left on disk still loads, resumes, and appears in tables: earlier_version/README.md says what."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.earlier_names import renamed
from scripts import make_tables, report, reproduce
from tests.conftest import ROOT, names_with_spaces
from tests.tiny_community import read_csv, read_json, run

KINDS = ("joint", "staged")
LATER = ("R@100", "MRR", "MAP@R")  # metrics that are newer
RESULTS = ("test", "alpha", "best_epoch", "counts", "parameters")  # of metrics.json
SEEDS = {"bm25": [0], "clip4clip_meanp": [0, 1], "drl_wti": [0, 1], "ief": [0, 1], "ief_no_emotions": [0, 1]}
REPRODUCE = [
    *("--dry_run", "--communities", "demo", "--methods", *SEEDS, "--seeds", "0", "1"),
    *("--", "--pretrained_clip_name", "ViT-tiny/8", "--device", "cpu"),
    *("--epochs", "2", "--batch_size", "8", "--lr", "1e-3", "--n_display", "1"),
]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A folder with data/, runs/ and results/ of the earlier version; each test writes to places of its own."""
    folder = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(Path(__file__).parent / "earlier_version" / "files.tar.xz", folder)
    yield folder
    shutil.rmtree(folder)


def assert_same(found, expected, tolerance, where="it"):
    """Whether `found` has all that is in `expected`, numbers within a relative tolerance; it may have more keys."""
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, tolerance, f"{where}[{key!r}]")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, tolerance, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance), f"{where}: {found}, not {expected}"
    else:
        assert found == expected, where


def assert_same_results(metrics, expected, names=RESULTS):
    """Metrics follow from ranks, and are the same on any CPU; α comes from sums of floats, whose last bits are not."""
    metrics, expected = ({name: value[name] for name in names} for value in (metrics, expected))
    del expected["test"]["scores"]["fused_val_alpha"]  # α by a grid on val, which is gone
    assert_same(metrics["test"]["scores"], expected["test"]["scores"], 1e-6, "the scores")
    assert_same(metrics, expected, 1e-4)


def losses(folder):
    """The lines of losses.jsonl without the speed."""
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in line.items() if name != "records_per_second"} for line in map(renamed, lines)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_and_ends_as_the_one_that_ran_through(earlier, kind):
    """The command is the recorded one. The losses are those of each step: an optimiser's state changes them.

    Joint training has dropout, whose masks are drawn in another way since, and a line says so: it ends elsewhere. What
    is left to compare is what no mask has reached: the rates, and the QC loss of the first step.
    """
    through, killed = earlier / "runs" / kind, earlier / "runs" / f"{kind}_killed"
    steps_before = len(losses(killed))
    program, *argv = shlex.split(read_json(killed / "run.json")["command"])[1:]
    assert program == "main_task_retrieval.py"
    argv += ["--data_path", str(earlier / "data" / "demo"), "--output_dir", str(killed)]
    code, printed = run([*argv, "--resume_model", str(killed / "checkpoint_last.pt")])
    assert code == 0, printed
    assert "step 1/9" not in printed, "it began anew"
    assert 0 < steps_before < len(losses(through))
    assert len(losses(killed)) == len(losses(through))
    assert "records/s" not in (killed / "losses.jsonl").read_text(encoding="utf-8")  # of no line, old or new
    assert printed.count("was written when each process drew its own dropout masks") == (kind == "joint")
    if kind == "joint":
        found, expected = losses(killed), losses(through)
        assert_same(found[:steps_before], expected[:steps_before], 1e-4)
        for name in ("stage", "step", "epoch", "lr"):
            assert [line[name] for line in found] == [line[name] for line in expected]
        found, expected = (lines[steps_before]["losses"] for lines in (found, expected))
        assert found["qc"] == pytest.approx(expected["qc"], rel=1e-4)
        assert found["qi"] == pytest.approx(expected["qi"], rel=0.2)
        code, printed = run([*argv, "--resume_model", str(killed / "checkpoint_last.pt")])
        assert code == 0 and "dropout masks" not in printed, printed
        return
    found, expected = losses(killed), losses(through)
    for line in [*found, *expected]:  # α of θ, which staged training leaves as it was: it is not told any more
        line.pop("alpha")
    assert_same(found, expected, 1e-4)
    found, expected = read_json(killed / "metrics.json"), renamed(read_json(through / "metrics.json"))
    assert not names_with_spaces(found)
    for result in (found, expected):  # the third step was a grid, and is a fit now
        del result["test"]["scores"]["fused"], result["test"]["alpha"]
    assert_same_results(found, expected, ("test", "best_epoch", "counts", "parameters"))
    assert "staged training, step 3: α = " in printed and "fitted on val" in printed


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_has_the_results_of_its_run(earlier, tmp_path, kind):
    checkpoint = earlier / "runs" / kind / "checkpoint_best.pt"
    argv = ["--do_eval", "--init_model", str(checkpoint), "--data_path", str(earlier / "data" / "demo")]
    code, printed = run([*argv, "--output_dir", str(tmp_path), "--device", "cpu"])
    assert code == 0, printed
    expected = renamed(read_json(checkpoint.parent / "metrics.json"))
    assert_same_results(read_json(tmp_path / "metrics.json"), expected, ("test", "alpha"))


@pytest.mark.parametrize("name", ["main", "ablation", "weights", "cost", "significance"])
def test_tables_have_the_numbers_that_they_had(earlier, tmp_path, name):
    make_tables.main([str(earlier / "results"), "--out", str(tmp_path), "--communities", "demo"])
    rows, expected = (read_csv(folder / f"{name}.csv") for folder in (tmp_path, earlier / "results" / "tables"))
    if name == "weights":  # those of a grid on val are gone; nobody knows what fusing gained over the better part
        rows = [row for row in rows if not row["quantity"].startswith("fused_minus") or row["mean"]]
        expected = [row for row in expected if "grid" not in row["quantity"]]
        expected = [row | {"set_by": row["set_by"].replace("learned", "trained")} for row in expected]
    if name in ("main", "ablation"):  # metrics that are newer have rows, too: see the next test
        rows = [row for row in rows if row["metric"] not in LATER]
    assert_same(list(map(with_numbers, rows)), list(map(with_numbers, expected)), 1e-6, name)


def test_tables_and_reports_have_the_metrics_that_are_newer(earlier, tmp_path):
    """Against the ranks in the runs' files, by their definitions."""
    make_tables.main([str(earlier / "results"), "--out", str(tmp_path)])
    rows = {(row["method"], row["metric"]): row for row in read_csv(tmp_path / "main.csv")}
    folder = earlier / "results" / "demo" / "bm25" / "seed_0"
    with np.load(folder / "test_queries.npz") as file:
        queries, ranks = file["query"], file["ranks.fused"]
    found = {name: [] for name in LATER}
    for query in set(queries.tolist()):
        own = sorted(ranks[queries == query].tolist())
        found["R@100"].append(100 * (own[0] <= 100))
        found["MRR"].append(100 / own[0])
        within = [place / rank for place, rank in enumerate(own, 1) if rank <= len(own)]
        found["MAP@R"].append(100 * sum(within) / len(own))
    page = tmp_path / "report.html"
    report.main([str(folder), "--out", str(page), "--data_path", str(earlier / "data" / "demo")])
    for name, values in found.items():
        assert float(rows["bm25", name]["mean"]) == pytest.approx(np.mean(values))
        assert rows["random", name]["status"] == "expectation"
        assert f">{name}</th>" in page.read_text(encoding="utf-8")
        assert f"<td>{np.mean(values):.2f}<small>" in page.read_text(encoding="utf-8")


def with_numbers(row):
    return {name: float(cell) if re.fullmatch(r"-?\d+\.\d+(e-\d+)?", cell) else cell for name, cell in row.items()}


def test_the_main_table_has_the_runs_own_numbers(earlier, tmp_path):
    make_tables.main([str(earlier / "results"), "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "main.csv")
    for method in ("bm25", "clip4clip_meanp", "drl_wti", "ief"):
        folders = [earlier / "results" / "demo" / method / f"seed_{seed}" for seed in SEEDS[method]]
        runs = [read_json(folder / "metrics.json")["test"]["scores"]["fused"]["query_to_meme"] for folder in folders]
        own = {row["metric"]: row for row in rows if row["method"] == method and row["community"] == "demo"}
        assert own["mAP"]["status"] == "complete"
        for metric in ("R@1", "mAP", "MdR"):
            mean = sum(run["metrics"][metric] for run in runs) / len(runs)
            assert float(own[metric]["mean"]) == pytest.approx(mean, rel=1e-6)


def test_a_report_shows_them(earlier, tmp_path, capsys):
    folders = [earlier / "results" / "demo" / method / "seed_0" for method in SEEDS]
    page = tmp_path / "report.html"
    report.main([*map(str, folders), "--out", str(page), "--data_path", str(earlier / "data" / "demo")])
    assert "5 runs, 6 queries, 18 memes" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    for folder in folders:
        metrics = read_json(folder / "metrics.json")["test"]["scores"]["fused"]["query_to_meme"]["metrics"]
        assert f"{metrics['mAP']:.2f}" in text


@pytest.mark.parametrize(
    ("own", "other_code"),
    [
        ([], "done: by another version of the code"),
        (["--remake", "changed"], "made again: the code has changed"),
    ],
)
def test_reproduce_finds_nothing_changed_but_the_code(earlier, monkeypatch, capsys, own, other_code):
    monkeypatch.chdir(ROOT)
    assert (
        reproduce.main([*own, "--data_root", str(earlier / "data"), "--out", str(earlier / "results"), *REPRODUCE]) == 0
    )
    states = dict(re.findall(r"^# demo (\w+ seed \d): (.*?)(?: \(without .*)?$", capsys.readouterr().out, re.MULTILINE))
    assert states.keys() == {f"{method} seed {seed}" for method, seeds in SEEDS.items() for seed in seeds}
    assert set(states.values()) == {other_code}
