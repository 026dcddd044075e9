"""scripts.make_tables: numbers against sorted lists, SciPy and Holm by hand; what is bold, underlined and marked."""

import re
import statistics

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from scripts.make_tables import make_tables
from scripts.tables.table import places
from tests.scripts.run_folders import MEMES, QUERIES, relevance_of, write_run

SEEDS = (0, 1, 2)
QUALITIES = {"clip4clip_meanp": 1.0, "drl_wti": 1.05, "cap4video": 1.3, "ief_staged": 0.6, "ief": 2.5}
COMMUNITIES = ("demo", "english_memes")


def draw(community, method, seed, quality, relevance):
    """A matrix of scores without ties."""
    rng = np.random.default_rng([seed, *community.encode(), *method.encode()])
    scores = rng.normal(size=(QUERIES, MEMES))
    scores[relevance.query, relevance.meme] += quality
    return scores


def by_sorting(scores, relevance):
    """(average precision, R@1, best rank) of each query that has a relevant meme, in % but the rank."""
    rows = []
    for query in range(QUERIES):
        relevant = set(relevance.meme[relevance.query == query].tolist())
        if relevant:
            order = sorted(range(MEMES), key=lambda meme: -scores[query, meme])  # noqa: B023
            ranks = [rank for rank, meme in enumerate(order, 1) if meme in relevant]
            precision = statistics.mean(found / rank for found, rank in enumerate(ranks, 1))
            rows.append((100 * precision, 100.0 * (ranks[0] == 1), ranks[0]))
    return np.array(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two communities, five methods, three seeds: (folder of the tables, {(community, method): (3, Q', 3)})."""
    place = tmp_path_factory.mktemp("tables")
    queries = {}
    for number, community in enumerate(COMMUNITIES):
        relevance = relevance_of(number)
        for method, quality in QUALITIES.items():
            of_seeds = []
            for seed in SEEDS:
                scores = draw(community, method, seed, quality, relevance)
                write_run(place / "runs", community, method, seed, relevance=relevance, scores=scores)
                of_seeds.append(by_sorting(scores, relevance))
            queries[community, method] = np.array(of_seeds)
    make_tables(place / "runs", place / "out")
    return place / "out", queries


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=True)


def cells(folder, heading, label):
    """{column: cell} of the row of tables.md below a heading, first of "## ", that begins with `label`."""
    lines = (folder / "tables.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("#") and line.endswith(heading))
    table = [line[2:-2].split(" | ") for line in lines[start:] if line.startswith("|")]
    return dict(zip(table[0], next(row for row in table if row[0] == label), strict=False))


def test_means_and_standard_deviations_are_those_of_the_sorted_lists(made):
    folder, queries = made
    table = read(folder, "main").set_index(["community", "method", "metric"])
    for (community, method), values in queries.items():
        for place, metric in enumerate(("mAP", "R@1", "MnR")):
            of_runs = [run[:, place].mean() for run in values]
            row = table.loc[community, method, metric]
            assert row["mean"] == pytest.approx(statistics.mean(of_runs), rel=1e-9)
            assert row["sd"] == pytest.approx(statistics.stdev(of_runs), rel=1e-9)
            assert (row["seeds"], row["status"]) == ("0 1 2", "complete")
        medians = [float(np.median(run[:, 2])) for run in values]
        assert table.loc[community, method, "MdR"]["mean"] == pytest.approx(statistics.mean(medians))


def test_the_page_prints_what_the_csv_holds(made):
    folder, _ = made
    table = read(folder, "main").query("community == 'demo'").set_index(["method", "metric"])
    row = cells(folder, "Demo", "Cap4Video")
    for metric, digits in (("R@1", 2), ("P@50", 2), ("mAP", 2), ("MdR", 1), ("MnR", 1)):
        mean, sd = table.loc["cap4video", metric][["mean", "sd"]]
        assert re.sub("[*†‡]|</?ins>", "", row[metric]) == f"{mean:.{digits}f} ± {sd:.{digits}f}"
    chance = table.loc["random", "R@1"]["mean"]
    counts = relevance_of(0).counts
    assert chance == pytest.approx(100 * (counts[counts > 0] / MEMES).mean())
    assert cells(folder, "Demo", "random ranking")["R@1"] == f"{chance:.2f}"


def holm_by_hand(p_values):
    """Step-down: the i-th smallest of n times n - i, never below an earlier one, at most 1."""
    adjusted, largest = {}, 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - done) * p_values[place])
        adjusted[place] = min(1.0, largest)
    return [adjusted[place] for place in range(len(p_values))]


def test_significance_is_of_the_queries_means_over_seeds(made):
    folder, queries = made
    table = read(folder, "significance").query("table == 'main'")
    family = {(c, m, t) for c in COMMUNITIES for m in QUALITIES for t in ("mAP", "R@1") if m != "clip4clip_meanp"}
    assert set(zip(table.community, table.method, table.metric, strict=True)) == family
    assert len(table) == len(family) == 16
    assert set(table.comparisons) == {16} and set(table.baseline) == {"clip4clip_meanp"}
    for row in table.itertuples():
        place = ("mAP", "R@1").index(row.metric)
        method, baseline = (
            queries[row.community, name][..., place].mean(axis=0) for name in (row.method, row.baseline)
        )
        assert row.queries == len(method)
        assert row.gain == pytest.approx((method - baseline).mean(), abs=1e-9)
        test = scipy.stats.permutation_test(
            (method, baseline), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=4000, rng=1
        )
        assert row.p_randomisation == pytest.approx(test.pvalue, abs=0.035)
        interval = scipy.stats.bootstrap(
            (method - baseline,), np.mean, method="percentile", n_resamples=4000, rng=1
        ).confidence_interval
        assert (row.low, row.high) == pytest.approx(tuple(interval), abs=0.12 * (row.high - row.low))


def test_both_tests_are_corrected_for_all_comparisons_and_decide_the_marks(made):
    folder, _ = made
    table = read(folder, "significance").query("table == 'main'").fillna({"significant": ""}).reset_index()
    for test in ("bootstrap", "randomisation"):
        assert table[f"holm_{test}"].tolist() == pytest.approx(holm_by_hand(table[f"p_{test}"].tolist()))
    for row in table.itertuples():
        found = row.holm_bootstrap < 0.05 and row.holm_randomisation < 0.05
        assert row.significant == (("better" if row.gain > 0 else "worse") if found else "")
    assert set(table.significant) == {"better", "worse", ""}
    lost = table.query("p_bootstrap < 0.05 and p_randomisation < 0.05 and significant == ''")
    assert len(lost)  # without the correction there would be more marks
    own = table.query("community == 'demo' and metric == 'mAP'").set_index("method").significant
    for method, title in {"ief": "IEF", "ief_staged": "IEF, staged", "drl_wti": "DRL, WTI"}.items():
        mark = {"better": "†", "worse": "‡", "": ""}[own[method]]
        assert re.sub("[^†‡]", "", cells(folder, "Demo", title)["mAP"]) == mark
        assert not re.search("[†‡]", cells(folder, "Demo", title)["R@5"])  # that was not tested
    assert not re.search("[†‡]", cells(folder, "Demo", "CLIP4Clip, meanP")["mAP"])


def test_many_comparisons_get_resamples_enough(tmp_path):
    relevance = relevance_of()
    for number in range(30):
        for method, quality in (("clip4clip_meanp", 0.2), ("ief", 3.0)):
            write_run(tmp_path / "runs", f"c{number}", method, 0, quality, relevance)
    tested = ["mAP", "R@1", "R@5", "P@10", "MnR"]
    make_tables(tmp_path / "runs", tmp_path / "out", tested=tested)
    table = read(tmp_path / "out", "significance")
    assert len(table) == 150 and table.holm_randomisation.min() < 0.011
    assert (table.query("metric == 'mAP'").significant == "better").all()
    page = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert "15,000 resamples" in page and "150 comparisons" in page


def test_of_a_rank_the_lower_one_is_better(tmp_path):
    for method, quality in (("clip4clip_meanp", 0.3), ("ief", 3.0), ("drl_wti", -2.0)):
        write_run(tmp_path / "runs", "demo", method, 0, quality)
    make_tables(tmp_path / "runs", tmp_path / "out", tested=["MnR"])
    table = read(tmp_path / "out", "significance").set_index("method")
    assert table.gain["ief"] < 0 and table.significant["ief"] == "better"
    assert table.gain["drl_wti"] > 0 and table.significant["drl_wti"] == "worse"
    assert cells(tmp_path / "out", "Demo", "IEF")["MnR"].startswith("**")
    assert cells(tmp_path / "out", "Demo", "CLIP4Clip, meanP")["MnR"].startswith("<ins>")


def test_equal_methods_share_a_place_and_chance_has_none(tmp_path):
    relevance = relevance_of()
    worst = np.broadcast_to(-np.arange(MEMES, dtype=float), (QUERIES, MEMES)).copy()
    worst[relevance.query, relevance.meme] -= 1000  # all relevant memes last: chance is better
    hardly_better = worst.copy()
    hardly_better[0] *= -1  # but one query has its own first
    for method in ("clip4clip_meanp", "ief"):
        write_run(tmp_path / "runs", "demo", method, 0, scores=hardly_better)
    write_run(tmp_path / "runs", "demo", "cap4video", 0, scores=worst)
    make_tables(tmp_path / "runs", tmp_path / "out")
    rows = {
        title: cells(tmp_path / "out", "Demo", title)
        for title in ("random ranking", "CLIP4Clip, meanP", "Cap4Video", "IEF")
    }
    assert float(rows["random ranking"]["mAP"]) > float(rows["IEF"]["mAP"].strip("*"))
    assert rows["IEF"]["mAP"] == rows["CLIP4Clip, meanP"]["mAP"] and rows["IEF"]["mAP"].startswith("**")
    assert rows["Cap4Video"]["mAP"].startswith("<ins>")
    assert all("*" not in cell and "<ins>" not in cell for cell in rows["random ranking"].values())


def test_places_are_of_what_is_printed():
    assert places([10.001, 9.0, 10.004, None, 8.0], "mAP") == ["best", "second", "best", "", ""]
    assert places([10.006, 10.004], "mAP") == ["best", "second"]
    assert places([3.04, 2.96, 7.0, 5.0], "MnR") == ["best", "best", "", "second"]
    assert places([10.0, None], "mAP") == ["", ""]  # one method is not the best of several


def test_the_mean_of_one_seed_is_not_set_against_that_of_three(tmp_path):
    """A method that is not trained has no seeds: its one run may be the best."""
    for seed in SEEDS:
        write_run(tmp_path / "runs", "demo", "clip4clip_meanp", seed, quality=1.0)
        write_run(tmp_path / "runs", "demo", "drl_wti", seed, quality=-2.0)
    write_run(tmp_path / "runs", "demo", "bm25", 0, quality=3.0, alpha=None)
    write_run(tmp_path / "runs", "demo", "ief", 0, quality=9.0)
    make_tables(tmp_path / "runs", tmp_path / "out")
    shown = {
        title: cells(tmp_path / "out", "Demo", label)["mAP"]
        for title, label in {"bm25": "BM25 over captions", "clip4clip": "CLIP4Clip, meanP", "drl": "DRL, WTI"}.items()
    }
    ief = cells(tmp_path / "out", "Demo", "IEF (1 of 3 seeds)")["mAP"]
    assert float(ief.strip("†")) > float(shown["bm25"].strip("*†"))
    assert shown["bm25"].startswith("**") and shown["clip4clip"].startswith("<ins>")
    assert not re.search(r"\*|<ins>", ief + shown["drl"])
    for name in ("tables.md", "main.tex"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "Bold: the best of a column (trained methods with fewer than 3 seeds take no part)." in text


LEGEND = {  # mark in tables.md and in LaTeX: words of its meaning in both
    ("±", "\\pm"): ("Mean ± standard", r"Mean $\pm$ standard"),
    ("**", r"\textbf"): ("Bold:", "Bold:"),
    ("<ins>", r"\underline"): ("Underlined:", "Underlined:"),
    ("†", r"^{\dagger}"): ("† significantly better", r"$\dagger$ significantly better"),
    ("‡", r"^{\ddagger}"): ("‡ significantly worse", r"$\ddagger$ significantly worse"),
}


def marks_of(folder):
    """The marks in all tables of a folder, each of which the legend has to name, and no others."""
    parts = []
    for part in re.split("^###? ", (folder / "tables.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        lines = part.splitlines()
        parts.append((0, [line for line in lines if line.startswith("|")], [line for line in lines if line[:1] != "|"]))
    for name in ("main", "ablation", "weights", "cost"):
        for part in (folder / f"{name}.tex").read_text(encoding="utf-8").split(r"\end{table*}"):
            rows, _, rest = part.partition(r"\bottomrule")
            parts.append((1, [rows], [rest]))
            assert len(rest.split()) < 60
    found = set()
    for kind, rows, rest in parts:
        for mark, meaning in LEGEND.items():
            occurs = any(mark[kind] in row for row in rows)
            assert occurs == any(meaning[kind] in line for line in rest), (mark, rows, rest)
            found |= {mark[0]} if occurs else set()
    return found


def test_the_legend_has_the_marks_that_occur_and_no_others(made, tmp_path):
    assert marks_of(made[0]) == {"±", "**", "<ins>", "†", "‡"}
    for number, methods, marks in (
        (0, {"ief": 1.0}, set()),
        (1, {"ief": 3.0, "clip4clip_meanp": 0.2}, {"**", "<ins>", "†"}),
        (2, {"ief": 3.0, "ief_qc": 0.2}, {"‡"}),
    ):
        for method, quality in methods.items():
            write_run(tmp_path / f"runs{number}", "demo", method, 0, quality)
        make_tables(tmp_path / f"runs{number}", tmp_path / str(number))
        assert marks_of(tmp_path / str(number)) == marks
    assert "footnotesize" not in (tmp_path / "0" / "main.tex").read_text(encoding="utf-8")


def test_ablations_are_compared_with_the_full_model_in_a_family_of_their_own(tmp_path):
    relevance = relevance_of()
    quality = {"ief": 2.0, "ief_qi": 0.3, "ief_qc": 1.95, "ief_emotion_token": 4.0, "clip4clip_meanp": 1.0}
    queries = {}
    for method, value in quality.items():
        scores = [draw("demo", method, seed, value, relevance) for seed in (0, 1)]
        queries[method] = np.mean([by_sorting(one, relevance) for one in scores], axis=0)[:, 0]
        for seed in (0, 1):
            write_run(tmp_path / "runs", "demo", method, seed, relevance=relevance, scores=scores[seed])
    make_tables(tmp_path / "runs", tmp_path / "out")
    table = read(tmp_path / "out", "significance").query("table == 'ablation'").set_index("method")
    assert set(table.index) == {"ief_qi", "ief_qc", "ief_emotion_token"}
    assert set(table.comparisons) == {3} and set(table.baseline) == {"ief"} and set(table.metric) == {"mAP"}
    for method in table.index:
        assert table.gain[method] == pytest.approx((queries[method] - queries["ief"]).mean(), abs=1e-9)
    assert (table.significant["ief_qi"], table.significant["ief_emotion_token"]) == ("worse", "better")
    lines = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8").partition("## Ablations")[2].splitlines()
    rows = [line[2:-2].split(" | ") for line in lines if line.startswith("|")]
    assert [row[:2] for row in rows[2:6]] == [
        ["full model", "IEF"],
        ["emotions (channel)", "a token"],
        ["branches (QI and QC)", "QI only"],
        ["", "QC only"],
    ]
    shown = rows[4][-2:]
    low, high = (f"{table[name]['ief_qi']:+.2f}".replace("-", "−") for name in ("low", "high"))
    assert shown == [f"−{-table.gain['ief_qi']:.2f}‡", f"\\[{low}, {high}\\]"]
