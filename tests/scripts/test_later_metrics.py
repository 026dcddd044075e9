"""A metric is one entry: it appears in tables, reports and flags, of runs that were made before it, too."""

import json

import numpy as np
import pandas as pd
import pytest

import metrics
from engine.arguments import parse_arguments
from scripts.make_tables import make_tables
from scripts.reporting.page import page
from scripts.reporting.shown_runs import read_runs
from scripts.reporting.tested_community import read_community
from tests.scripts.run_folders import relevance_of, write_community, write_run, write_run_on

LATER = ("R@5", "P@10", "MdR", "mAP", "nDCG@10", "recall@20")  # which a run is made to lack


def without(value, names):
    """A JSON value whose objects lack these names."""
    if isinstance(value, dict):
        return {name: without(item, names) for name, item in value.items() if name not in names}
    return value


def make_older(folder, directions=("query_to_meme", "meme_to_query")):
    """Take LATER out of a run's metrics.json, as if they had been added since."""
    path = folder / "metrics.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    for scores in (*results["test"]["scores"].values(), results["test"]["random"]):
        scores |= {direction: without(scores[direction], LATER) for direction in directions}
    path.write_text(json.dumps(results), encoding="utf-8")


def test_the_tables_of_older_runs_are_those_of_new_ones(tmp_path):
    for method in ("clip4clip_meanp", "ief"):
        for seed in (0, 1):
            write_run(tmp_path / "runs", "demo", method, seed)
    make_tables(tmp_path / "runs", tmp_path / "new")
    for folder in tmp_path.glob("runs/demo/*/*"):
        make_older(folder)
    make_tables(tmp_path / "runs", tmp_path / "older")
    new, older = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name != "cost.csv"}
        for name in ("new", "older")
    )
    assert "main.csv" in new and new == older


@pytest.fixture
def community(tmp_path):
    pairs = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (3, 0)]
    return write_community(tmp_path / "community", ["a", "b", "c", "d"], [{}] * 6, [*pairs, (3, 5)])


def write_report_run(tmp_path, community):
    scores = {name: np.random.default_rng(number).normal(size=(4, 6)) for number, name in enumerate(("qi", "fused"))}
    return write_run_on(tmp_path / "run", community, scores)


def report(folder):
    runs = read_runs([folder])
    return page(runs, read_community(runs), progress=False)[0]


def test_the_report_of_an_older_run_is_that_of_a_new_one(tmp_path, community):
    folder = write_report_run(tmp_path, community)
    new = report(folder)
    make_older(folder, ["query_to_meme"])
    assert report(folder) == new
    make_older(folder)  # no ranks of meme to query are kept: the random ranking's numbers alone are known
    shown = sum(name in metrics.shown_metrics() for name in LATER)
    assert ">–</td>" not in new and report(folder).count(">–</td>") == shown


def test_one_entry_makes_a_metric_of_tables_reports_and_flags(tmp_path, community, monkeypatch):
    folder = write_report_run(tmp_path, community)
    relevance = relevance_of()
    scores = np.random.default_rng(0).normal(size=relevance.shape)
    for method in ("clip4clip_meanp", "ief"):
        own = scores if method == "ief" else -scores
        write_run(tmp_path / "runs", "demo", method, relevance=relevance, scores=own)
    entry = metrics.Metric(lambda q: 100 * (q.best <= 3) / q.n_relevant, None)
    monkeypatch.setitem(metrics.METRICS, "early", entry)
    make_tables(tmp_path / "runs", tmp_path / "out", tested=["early"])
    table = pd.read_csv(tmp_path / "out" / "main.csv").set_index(["method", "metric"])
    expected = []
    for query in range(len(scores) - 1):  # the last one has nothing relevant
        relevant = relevance.meme[relevance.query == query].tolist()
        first = np.argsort(-scores[query])[:3].tolist()
        expected.append(100 * bool(set(first) & set(relevant)) / len(relevant))
    assert table.loc["ief", "early"]["mean"] == pytest.approx(np.mean(expected))
    lines = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    early = {row[1]: row[rows[0].index("early")] for row in rows if len(row) == len(rows[0])}
    assert early["random ranking"] == "–" and early["IEF"].strip("*†‡") == f"{np.mean(expected):.2f}"
    assert set(pd.read_csv(tmp_path / "out" / "significance.csv").metric) == {"early"}
    assert ">early</th>" in report(folder)
    args, _ = parse_arguments(["--do_train", "--output_dir", "x", "--data_path", "y", "--select_metric", "early"])
    assert args.select_metric == "early"


def test_an_epoch_is_not_selected_by_what_is_better_where_it_is_lower(capsys):
    for wrong in ("MdR", "early"):
        with pytest.raises(SystemExit):
            parse_arguments(["--do_train", "--output_dir", "x", "--select_metric", wrong])
        assert "must be one of R@1, R@5, R@10, R@20, R@50, R@100, recall@1" in capsys.readouterr().err
