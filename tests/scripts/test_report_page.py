"""The report's page: its numbers against those computed here, its groups, texts, size and errors."""

import base64
import functools
import hashlib
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from dataloaders.thumbnail import first_picture
from evaluation.query_record import QueryRecord
from scripts.report import main
from scripts.reporting import thumbnails as thumbnails_module
from scripts.reporting.chart import POINTS, thin, ticks
from scripts.reporting.query_groups import by_emotion, by_number, by_script, groupings
from scripts.reporting.shown_runs import read_runs, unusual_flags
from scripts.reporting.tested_community import read_community
from scripts.reporting.thumbnails import thumbnails
from tests.conftest import ROOT
from tests.scripts.parsed_page import embedded_data, parsed
from tests.scripts.run_folders import PATHS, community_relevance, evaluation, loss, write_community, write_run_on
from tests.tiny_community import read_csv, write_csv
from util import InputError

QUERIES = ["when the bus is late", "early birds", "好笑的猫", "🙃"]
RELEVANT = {0: [0, 1], 1: [2, 3, 4, 5], 2: [6, 7, 8, 9, 10, 11, 12, 13, 14], 3: [15]}
FUSED = {0: [1, 10], 1: [2, 5, 12, 16], 2: list(range(1, 10)), 3: [14]}
QI = {0: [4, 8], 1: [2, 5, 12, 16], 2: list(range(8, 17)), 3: [1]}
QC = {0: [2, 3], 1: [1, 2, 3, 4], 2: list(range(1, 10)), 3: [16]}
BY_VAL = FUSED | {1: [1, 2, 3, 4]}
EMOTIONS = {0: ["sad", "angry"], 1: ["angry"], 2: ["sad", "happy"], 3: ["happy", "unknown"], 4: ["unknown", "none"]}


def average_precision(ranks):
    """In %, by its definition."""
    return 100 * sum((place + 1) / rank for place, rank in enumerate(sorted(ranks))) / len(ranks)


def scores_with(ranks_of):
    """(4, 16) scores that give each query's relevant memes, in order, these ranks."""
    scores = np.zeros((4, 16), np.float32)
    for query, ranks in ranks_of.items():
        others = [meme for meme in range(16) if meme not in RELEVANT[query]]
        free = [rank for rank in range(1, 17) if rank not in ranks]
        scores[query, RELEVANT[query] + others] = [-rank for rank in ranks + free]
    return scores


# the memes among any query's ten best by the fused score
SHOWN = {f"m{meme}" for row in scores_with(FUSED) for meme in np.argsort(-row)[:10]}
TWO_BRANCHES = {"qi": QI, "qc": QC, "fused": FUSED}


def write_small_run(folder, community, ranks=TWO_BRANCHES, **more):
    scores = {name: scores_with(of_score) for name, of_score in ranks.items()}
    return write_run_on(folder, community, scores, alpha=[0.5] * 4 if len(ranks) > 1 else None, **more)


@pytest.fixture(scope="module")
def community(tmp_path_factory):
    memes = [{"emotions": EMOTIONS.get(meme, []), "captions": [f"caption of {meme}"]} for meme in range(16)]
    pairs = [(query, meme) for query, of_query in RELEVANT.items() for meme in of_query]
    return write_community(tmp_path_factory.mktemp("data") / "community", QUERIES, memes, pairs)


@pytest.fixture(scope="module")
def folder(community, tmp_path_factory):
    return write_small_run(tmp_path_factory.mktemp("runs") / "first", community)


def report(*argv, out):
    """The page's text, its elements, its data."""
    main([*map(str, argv), "--out", str(out)])
    text = out.read_text(encoding="utf-8")
    return text, parsed(text), embedded_data(text)


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    return report(folder, out=tmp_path_factory.mktemp("page") / "page.html")


def error(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, argv)))
    return str(stop.value)


# What the gallery shows


def test_the_gallery_has_each_querys_precision_and_best_memes(page):
    _, _, data = page
    assert [query["text"] for query in data["queries"]] == QUERIES
    for number, query in enumerate(data["queries"]):
        [run] = query["runs"]
        assert run["ap"] == pytest.approx(average_precision(FUSED[number]), abs=1e-4)
        assert query["relevant"] == len(RELEVANT[number])
        shown = [(data["memes"][meme]["id"], relevant, qi, qc) for meme, relevant, qi, qc in run["best"]]
        assert [place for place, (_, relevant, *_) in enumerate(shown, start=1) if relevant] == [
            rank for rank in FUSED[number] if rank <= 10
        ]
        for meme, rank, qi, qc in zip(RELEVANT[number], FUSED[number], QI[number], QC[number], strict=True):
            assert rank > 10 or shown[rank - 1] == (f"m{meme}", 1, qi, qc)
        below = [rank for rank in FUSED[number] if rank > 10]
        assert run["further"] == [below, len(below)]


def test_memes_have_their_texts_and_pictures(page, community):
    _, _, data = page
    for meme in data["memes"]:
        number = int(meme["id"][1:])
        assert meme["captions"] == [f"caption of {number}"] and meme["emotions"] == EMOTIONS.get(number, [])
        webp = np.frombuffer(base64.b64decode(data["pictures"][meme["picture"]]), np.uint8)
        original = cv2.imread(str(community / "images" / f"{number}.png"))
        difference = cv2.imdecode(webp, cv2.IMREAD_COLOR).mean(axis=(0, 1)) - original.mean(axis=(0, 1))
        assert np.abs(difference).max() < 8
    assert len(data["pictures"]) == len({meme["picture"] for meme in data["memes"]}) == len(SHOWN)
    assert {meme["id"] for meme in data["memes"]} == SHOWN


def test_orders_of_the_queries(page):
    _, root, data = page
    options = [option.text for option in root.one("select", id="order").all("option")]
    orders = {}
    for label, (key, sign) in zip(options, data["orders"], strict=True):
        orders[label] = sorted(range(4), key=lambda query, key=key, sign=sign: (sign * data["keys"][key][query], query))
    assert orders["worst first"] == [3, 1, 0, 2] == orders["best first"][::-1]
    assert orders["as in the CSV"] == [0, 1, 2, 3]
    from_qc = [label for label in options if "from QC" in label]
    assert [orders[label] for label in from_qc] == [[2, 0, 1, 3], [3, 1, 0, 2]]  # gained most, lost most


def test_very_long_texts_and_many_captions_are_shortened(tmp_path):
    memes = [{"captions": ["x" * 3000, *"abcdefgh"], "text": "y" * 3000}]
    data_folder = write_community(tmp_path / "data", ["z" * 2000], memes, [(0, 0)])
    run = write_run_on(tmp_path / "run", data_folder, {"fused": np.ones((1, 1), np.float32)})
    _, root, data = report(run, out=tmp_path / "page.html")
    assert data["queries"][0]["text"] == "z" * 2000
    captions = data["memes"][0]["captions"]
    assert captions == ["x" * 399 + "…", *"abcde", "… and 3 more"]
    assert data["memes"][0]["text"] == "y" * 399 + "…"


# Tables and lists


def test_the_table_has_the_metrics_and_intervals_of_the_record(page, folder):
    _, root, _ = page
    record = json.loads((folder / "metrics.json").read_text())["test"]
    for direction, panel in zip(
        ("query_to_meme", "meme_to_query"), root.one("div", class_="panels").all("table"), strict=True
    ):
        head, *rows = panel.rows()
        assert head[1:7] == ["R@1", "R@5", "R@10", "R@20", "R@50", "R@100"]
        assert head[7:] == ["P@10", "P@20", "P@50", "MdR", "MnR", "mAP", "nDCG@10", "MRR", "MAP@R"]
        assert [row[0] for row in rows] == ["QI", "QC", "fused", "random ranking"]
        for row, score in zip(rows, ("qi", "qc", "fused", None), strict=True):
            entry = record["scores"][score][direction] if score else record["random"][direction]
            for metric, cell in zip(head[1:], row[1:], strict=True):
                digits = 1 if metric in ("MdR", "MnR") else 2
                low, high = entry["intervals"][metric] if score else (0, 0)
                interval = f"{low:.{digits}f}–{high:.{digits}f}" if score else ""
                assert cell == f"{entry['metrics'][metric]:.{digits}f}{interval}"


def list_of(element):
    """[(the value in bold, the query's number)] of a list of queries."""
    return [(item.one("b").text, int(item.one("button").attributes["data-query"])) for item in element.all("li")]


def test_gains_and_losses_within_a_run(page):
    _, root, _ = page
    [from_qc] = root.one("section", id="gains").all("div", class_="gain")
    gains = [average_precision(FUSED[query]) - average_precision(QI[query]) for query in range(4)]
    gained, lost = from_qc.all("ol")
    assert from_qc.one("h3").text == "From QC: first"
    assert list_of(gained) == [(f"{gains[query]:+.1f}", query) for query in (2, 0)]
    assert list_of(lost) == [(f"−{-gains[3]:.1f}", 3)]
    assert f"mAP {np.mean(gains):+.2f} [".replace("-", "−") in from_qc.text
    assert "2 queries gain, 1 lose, 1 stay" in from_qc.text


def test_worst_queries(page):
    _, root, _ = page
    worst = root.one("section", id="worst")
    assert [query for _, query in list_of(worst)] == [3, 1, 0, 2]
    assert "first at 14" in worst.all("li")[0].text and worst.all("li")[0].one("b").text == "7.1"


def test_the_breakdown_has_the_means_of_its_groups(page):
    _, root, _ = page
    tables = {part.one("h3").text: part.one("table").rows() for part in root.all("div", class_="breakdown")}

    def row(label, *queries):
        precision = np.mean([average_precision(FUSED[query]) for query in queries])
        hits = [100 * np.mean([FUSED[query][0] <= k for query in queries]) for k in (1, 5)]
        return [label, str(len(queries)), *(f"{value:.2f}" for value in (precision, *hits))]

    assert tables["Emotion"][1:] == [row("angry", 0), row("happy", 1), row("none", 2, 3)]
    assert tables["Relevant memes"][1:] == [row("1", 3), row("2–5", 0, 1), row("6–20", 2)]
    assert tables["Query length"][1:] == [row("1–2", 1, 3), row("3–5", 0, 2)]
    assert tables["Language"][1:] == [row("Chinese characters", 2), row("Latin", 0, 1), row("other", 3)]


def test_run_facts(page):
    _, root, _ = page
    facts = {cells[0]: cells[1] for cells in root.one("section", id="facts").one("table").rows()}
    assert facts["parameters"] == "1,234,567, of which 1,000,000 trained"
    assert facts["α, the weight of QI"] == "0.500, trained"
    gain = np.mean([average_precision(FUSED[query]) - average_precision(QI[query]) for query in range(4)])
    shown = f"QI (by mAP): mAP {gain:+.2f} [".replace("-", "−")
    assert facts["fused minus the better part on val"].startswith(shown)
    assert facts["time"] == "all 1 min 5 s"
    assert facts["code version"] == "0123456789ab"
    assert facts["versions"] == "python 3.11.7, numpy 2.4.6"
    assert facts["best epoch"] == "not trained"
    assert facts["command"].strip() == "python main_task_retrieval.py"


# Groups


class Meme:
    def __init__(self, *emotions):
        self.emotions = emotions


def test_a_querys_emotion_is_the_most_frequent_word_of_its_memes(community):
    _, _, relevance = community_relevance(community)
    memes = [Meme() for _ in range(16)]
    memes[0], memes[1] = Meme("sad", "sad", "joy"), Meme("joy", "fear")  # a tie: joy is first by alphabet
    memes[2], memes[3] = Meme("none", "none", "fear"), Meme("unknown", "unknown")
    labels, group = by_emotion(memes, relevance)
    assert [labels[index] for index in group] == ["joy", "fear", "none", "none"]


def test_rare_emotions_share_a_group(tmp_path):
    """30 queries of one meme each: 15 words, of which the first 5 (w00 …) are twice as frequent."""
    words = [f"w{number % 20:02d}" if number < 25 else f"w{number - 25:02d}" for number in range(30)]
    memes = [Meme(word) for word in words]
    folder = write_community(
        tmp_path / "many", [f"query {n}" for n in range(30)], [{}] * 30, [(n, n) for n in range(30)]
    )
    labels, group = by_emotion(memes, community_relevance(folder)[2])
    named = sorted(sorted(set(words)), key=lambda word: -words.count(word))[:12]
    assert labels == [*named, "other words", "none"]
    assert [labels[index] for index in group] == [word if word in named else "other words" for word in words]


def test_numbers_are_grouped_up_to_the_bounds():
    labels, group = by_number([1, 2, 5, 6, 20, 21, 400], (1, 5, 20))
    assert labels == ["1", "2–5", "6–20", "over 20"]
    assert [labels[index] for index in group] == ["1", "2–5", "2–5", "6–20", "6–20", "over 20", "over 20"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("when it's over", "3–5"),
        ("well-known, isn’t it?", "3–5"),
        ("猫", "1–2"),
        ("今天也要加油鸭", "6–10"),  # seven characters
        ("猫 cat 猫 in a ねこ hat", "6–10"),  # 2 + 4 + 2
        ("🙃 … !", "1–2"),
        ("а б в г д е ё ж з и к л", "11–20"),
        ("एक दो तीन", "3–5"),  # with combining vowel signs
    ],
)
def test_length_of_a_query(query, words, community):
    _, _, relevance = community_relevance(community)
    length = groupings([query] * 4, [Meme()] * 16, relevance)[2]
    assert length.labels == [words]


def test_the_script_is_that_of_most_letters():
    queries = ["cat 猫", "猫猫 a", "猫 a", "кот", "кот a", "123 !", "ねこ cat", "ねこねこ cat", "Ünïcödé"]
    labels, group = by_script(queries)
    han, latin, other = "Chinese characters", "Latin", "other"
    expected = [latin, han, han, other, other, other, latin, other, latin]
    assert [labels[index] for index in group] == expected


# Several runs


@pytest.fixture
def two_runs(folder, community, tmp_path):
    args = {"emotion_fusion": "none", "data_path": str(community), "output_dir": "there", "num_thread_reader": 9}
    ranks = TWO_BRANCHES | {"fused": BY_VAL}
    return folder, write_small_run(tmp_path / "second", community, ranks, **args)


def test_runs_side_by_side(two_runs, tmp_path):
    _, root, data = report(*two_runs, out=tmp_path / "page.html")
    assert [run["name"] for run in data["runs"]] == ["first", "second"]
    between, _, from_qc_in_second = root.one("section", id="gains").all("div", class_="gain")
    assert from_qc_in_second.one("h3").text == "From QC: second"
    assert between.one("h3").text == "From first to second"
    assert between.all("p")[0].text == "emotion_fusion: channel → none"  # no path, no number of workers
    assert list_of(between.one("ol")) == [("+65.0", 1)]
    assert [run["ap"] for run in data["queries"][1]["runs"]] == [35, 100]
    rows = root.one("section", id="results").all("table")[0].rows()
    assert [row[0] for row in rows[1:]] == [
        *("first", "QI", "QC", "fused"),
        *("second", "QI", "QC", "fused"),
        "random ranking",
    ]
    table = root.all("div", class_="breakdown")[1].one("table").rows()  # by the number of relevant memes
    group = ["2–5", "2", *(f"{value:.2f}" for value in ((average_precision(FUSED[0]) + 35) / 2, 50, 100))]
    assert table[3] == [*group, *(f"{value:.2f}" for value in ((average_precision(FUSED[0]) + 100) / 2, 100, 100))]
    assert len(data["pictures"]) == len(SHOWN)  # each meme once


def test_what_differs_where_no_common_setting_does(community, tmp_path):
    """Two methods are named: that they have no setting in common does not make them the same."""
    captions = {"fused": QC}
    bm25 = write_small_run(tmp_path / "bm25", community, captions, method="bm25", seed=0, caption_source="caption")
    args = json.loads((bm25 / "args.json").read_text(encoding="utf-8"))
    (bm25 / "args.json").write_text(
        json.dumps({name: args[name] for name in (*PATHS, "datatype", "method", "seed", "caption_source")})
    )
    ief = [
        write_small_run(tmp_path / f"ief{n}", community, captions, method="ief", seed=n, caption_source="caption")
        for n in (0, 1)
    ]
    both = write_small_run(tmp_path / "both", community, captions, method="ief", seed=0, caption_source="both")

    def details(*runs):
        _, root, _ = report(*runs, out=tmp_path / "page.html")
        return [part.all("p")[0].text for part in root.one("section", id="gains").all("div", class_="gain")]

    assert details(bm25, ief[0], both) == [
        "method: bm25 → ief; the settings that both have are the same",
        "method: bm25 → ief; caption_source: caption → both",
    ]
    assert details(*ief) == ["seed: 0 → 1"]
    assert details(ief[0], both) == ["caption_source: caption → both"]
    learned = {"method": "ief_emotion_learned", "seed": 0, "caption_source": "caption"}  # ief's own, from scratch
    equal = write_small_run(tmp_path / "learned", community, captions, **learned)
    assert details(ief[0], equal) == ["method: ief → ief_emotion_learned; the settings that both have are the same"]


def test_names_of_runs(community, tmp_path):
    runs = [
        write_small_run(tmp_path / "a" / "seed_0", community, method="ief", seed=0),
        write_small_run(tmp_path / "a" / "seed_1", community, method="ief", seed=1),
        write_small_run(tmp_path / "b" / "seed_1", community, method="ief", seed=1),
        write_small_run(tmp_path / "mine", community),
    ]
    names = [run.name for run in read_runs(runs)]
    assert names == ["ief (seed 0)", f"ief (seed 1), {runs[1]}", f"ief (seed 1), {runs[2]}", "mine"]


def test_flags_that_differ_from_the_defaults(community, tmp_path):
    run = write_small_run(
        *(tmp_path / "run", community),
        **{"seed": 3, "lr": 0.5, "loss_weights": [1.0, 0.0, 2.0], "skip_bad_images": True, "device": "cpu"},
    )
    flags = dict(unusual_flags(read_runs([run])[0]))
    assert flags.pop("emotion_encoder") == "clip"  # the parser leaves it open, the run does not
    assert flags == {"lr": "0.5", "loss_weights": "1.0 0.0 2.0", "skip_bad_images": "yes"}


# Curves


def tips(figure):
    return [spot.attributes["data-tip"] for spot in figure.all("g", class_="spot")]


def marks(svg, style):
    """The places of a line's marks, which are circles or paths."""
    places = [mark.attributes.get("transform", "") for mark in svg.all("path", class_=f"dot {style}")]
    places = [re.match(r"translate\((\S+) (\S+)\)", place).groups() for place in places]
    places += [(mark.attributes["cx"], mark.attributes["cy"]) for mark in svg.all("circle", class_=f"dot {style}")]
    return [tuple(map(float, place)) for place in places]


def test_curves_of_a_joint_run(community, tmp_path):
    run = write_small_run(
        *(tmp_path / "run", community),
        losses=[
            loss("joint", step / 4, step, 0.5 + step / 100, total=9 - step, fused=3, qi=2, qc=1) for step in (2, 4, 6)
        ],
        evaluations=[evaluation("joint", e, 4 * e, 0.5, qi=10 * e, qc=15, fused=20) for e in (1, 2)],
        changes={"best_epoch": {"stage": "joint", "epoch": 1, "val": {"mAP": 20.0}}},
    )
    _, root, _ = report(run, out=tmp_path / "page.html")
    figures = root.one("section", id="curves").all("figure")
    titles = [figure.one("figcaption").text for figure in figures]
    on_val = [f"{metric} on val, query to meme" for metric in ("mAP", "R@1", "R@5", "R@10")]
    assert titles == ["Training loss", *on_val, "α, the weight of QI"]
    training, precision, weight = figures[0], figures[1], figures[-1]
    assert tips(training) == [f"step {s}\ntotal  {9 - s}\nfused  3\nQI  2\nQC  1" for s in (2, 4, 6)]
    assert tips(precision) == ["epoch 1\nfused  20\nQI  10\nQC  15", "epoch 2\nfused  20\nQI  20\nQC  15"]
    assert tips(weight) == [f"step {s}\nα  {0.5 + s / 100:.4g}" for s in (2, 4, 6)]
    # the marks are where the values are: linear in both directions, the best epoch's line through the first ones
    svg = precision.all("svg")[0]
    fused, qi = marks(svg, "fused"), marks(svg, "qi")
    zero = float(svg.all("line", class_="grid")[0].attributes["y1"])
    horizontal = [line for line in svg.all("line", class_="axis") if line.attributes["y1"] == line.attributes["y2"]]
    assert zero == float(horizontal[0].attributes["y1"])
    assert [zero - y for _, y in qi] == pytest.approx([(zero - fused[0][1]) * share for share in (0.5, 1)], abs=0.2)
    assert float(svg.one("line", class_="best").attributes["x1"]) == fused[0][0] < fused[1][0]


def test_a_fitted_weight_has_its_curve_beside_the_trained_one(community, tmp_path):
    run = write_small_run(
        *(tmp_path / "run", community),
        losses=[loss("joint", step / 4, step, 0.5 + step / 100, total=9) for step in (2, 4, 8)],
        evaluations=[evaluation("joint", e, 4 * e, 0.8 + e / 10, qi=10, qc=15, fused=20) for e in (1, 2)],
        changes={"best_epoch": {"stage": "joint", "epoch": 1, "val": {"mAP": 20.0}}},
        fusion_data="val",
    )
    _, root, _ = report(run, out=tmp_path / "page.html")
    weight = root.one("section", id="curves").all("figure")[-1]
    assert tips(weight) == ["step 2\ntrained  0.52", "step 4\nfitted on val  0.9\ntrained  0.54"] + [
        "step 8\nfitted on val  1\ntrained  0.58"
    ]
    assert "0.500, fitted on val" in root.one("section", id="facts").text


def test_curves_of_staged_training_follow_each_other(community, tmp_path):
    run = write_small_run(
        *(tmp_path / "run", community),
        losses=[loss(stage, 1, 8, total=value, **{stage: value}) for stage, value in (("qi", 3), ("qc", 2))],
        evaluations=[evaluation(stage, e, 8 * e, 0.5, qi=30, qc=20, fused=e) for stage in ("qi", "qc") for e in (1, 2)],
        changes={"best_epoch": {"stage": "qc", "epoch": 1, "val": {"mAP": 20.0}}},
        co_train="staged",
    )
    _, root, _ = report(run, out=tmp_path / "page.html")
    training, precision, *others = root.one("section", id="curves").all("figure")
    assert tips(training) == ["step 8 of stage qi\ntotal  3", "step 8 of stage qc\ntotal  2"]
    titles = [f"epoch {epoch} of stage {stage}" for stage in ("qi", "qc") for epoch in (1, 2)]
    assert [tip.split("\n")[0] for tip in tips(precision)] == titles
    svg = precision.all("svg")[0]
    best = float(svg.one("line", class_="best").attributes["x1"])
    xs = [float(dot.attributes["cx"]) for dot in svg.all("circle", class_="dot fused")]
    assert xs == sorted(xs) and best == xs[2]
    assert len(svg.all("polyline", class_="line fused")) == 2  # no line joins the stages
    assert [figure.one("figcaption").text for figure in others if "α" in figure.text] == []
    assert "0.500, staged: chosen on val" in root.one("section", id="facts").text


def test_the_curves_of_several_runs_share_their_charts(folder, community, tmp_path):
    """The third run is staged, and its epochs follow each other; the first one was not trained."""
    joint, short = (
        write_small_run(
            *(tmp_path / name, community),
            losses=[loss("joint", 1, 4, 0.5 + value / 100, total=value, qi=1, qc=1, fused=1)],
            evaluations=[evaluation("joint", e, 4 * e, 0.5, qi=1, qc=2, fused=value * e) for e in range(1, epochs + 1)],
            changes={"best_epoch": {"stage": "joint", "epoch": epochs, "val": {"mAP": 20.0}}},
        )
        for name, value, epochs in (("joint", 10, 2), ("short", 5, 1))
    )
    stages = [("qi", 1), ("qi", 2), ("qc", 1), ("qc", 2)]
    staged = write_small_run(
        *(tmp_path / "staged", community),
        losses=[loss(stage, 1, 8, total=3) for stage in ("qi", "qc")],
        evaluations=[evaluation(stage, e, 8 * e, 0.5, qi=3, qc=4, fused=7) for stage, e in stages],
        changes={"best_epoch": {"stage": "qc", "epoch": 1, "val": {"mAP": 7.0}}},
        co_train="staged",
    )
    _, root, _ = report(folder, joint, short, staged, out=tmp_path / "page.html")
    section = root.one("section", id="curves")
    own = section.one("details")
    assert "it has no curves" in own.text and [h.text for h in own.all("h3")] == ["first", "joint", "short", "staged"]
    shared = section.all("figure")[: -len(own.all("figure"))]
    assert len(shared) == 6 and len(own.all("figure")) == 6 + 6 + 5
    training, precision, weight = shared[0], shared[1], shared[-1]
    assert tips(training) == ["step 4\njoint  10\nshort  5", "step 8\nstaged  3", "step 24\nstaged  3"]
    assert tips(precision) == [
        *("epoch 1\njoint  10\nshort  5\nstaged  7", "epoch 2\njoint  20\nstaged  7"),
        *("epoch 3\nstaged  7", "epoch 4\nstaged  7"),
    ]
    assert tips(weight) == ["step 4\njoint  0.6\nshort  0.55"]
    svg = precision.all("svg")[0]
    styles = ["c0 d0", "c1 d1", "c2 d2"]
    assert [len(marks(svg, style)) for style in styles] == [2, 1, 4]
    assert [len(svg.all("polyline", class_=f"line {style}")) for style in styles] == [1, 0, 2]
    rings = [(float(ring.attributes["cx"]), float(ring.attributes["cy"])) for ring in svg.all("circle", class_="ring")]
    assert rings == [marks(svg, "c0 d0")[1], marks(svg, "c1 d1")[0], marks(svg, "c2 d2")[2]]
    legend = precision.one("p", class_="legend")
    assert [label.text for label in legend.all("span")] == ["joint", "short", "staged", "best epoch"]
    samples = [(sample.one("line").attributes["class"], sample.children[1].tag) for sample in legend.all("svg")[:3]]
    assert samples == [("line c0 d0", "circle"), ("line c1 d1", "path"), ("line c2 d2", "path")]


def test_a_run_of_one_epoch_is_points_with_their_values(community, tmp_path):
    run = write_small_run(
        *(tmp_path / "run", community),
        losses=[loss("joint", 0.5, 2, 0.5, total=9, fused=3, qi=2, qc=1), loss("joint", 1, 4, 0.5, total=8, fused=3)],
        evaluations=[evaluation("joint", 1, 4, 0.5, qi=10, qc=15, fused=20)],
        changes={"best_epoch": {"stage": "joint", "epoch": 1, "val": {"mAP": 20.0}}},
    )
    _, root, _ = report(run, out=tmp_path / "page.html")
    training, precision, *_ = root.one("section", id="curves").all("figure")
    svg = precision.all("svg")[0]
    assert [text.text for text in svg.all("text", class_="tick", text_anchor="middle")] == ["1"]  # of the epochs
    bottom = next(line for line in svg.all("line", class_="axis") if line.attributes["y1"] == line.attributes["y2"])
    left, right = (float(bottom.attributes[end]) for end in ("x1", "x2"))
    assert [[x for x, _ in marks(svg, style)] for style in ("fused", "qi", "qc")] == [[(left + right) / 2]] * 3
    assert not svg.all("polyline") and not svg.all("line", class_="best")
    assert [label.text for label in precision.one("p", class_="legend").all("span")] == [
        "fused  20",
        "QI  10",
        "QC  15",
    ]
    assert training.all("polyline", class_="line total")  # it has more steps than one


def test_alpha_of_each_query(community, tmp_path):
    alpha = [0.2, 0.25, 0.4, 0.4]
    scores = {name: scores_with(ranks) for name, ranks in TWO_BRANCHES.items()}
    run = write_run_on(
        *(tmp_path / "run", community, scores, alpha),
        evaluations=[evaluation("joint", 1, 4, 0.5, qi=10, qc=10, fused=10)],
        losses=[loss("joint", 1, 4, None, total=3, fused=1, qi=1, qc=1)],
        changes={"best_epoch": {"stage": "joint", "epoch": 1, "val": {"mAP": 10.0}}},
        fusion="query",
    )
    _, root, data = report(run, out=tmp_path / "page.html")
    assert [query["runs"][0]["alpha"] for query in data["queries"]] == alpha
    bars = tips(root.one("section", id="alpha").one("figure"))
    counts = {tuple(map(float, tip.split("\n")[0].split(" to "))): int(tip.split()[-1]) for tip in bars}
    for (low, high), count in counts.items():
        inside = [low - 1e-9 <= a < high - 1e-9 or (a == max(alpha) and abs(high - a) < 1e-9) for a in alpha]
        assert count == sum(inside)
    assert sum(counts.values()) == 4
    over_time = root.one("section", id="curves").all("figure")[-1]
    assert tips(over_time) == ["step 4\nmean over val's queries (lowest to highest)  0.5 (0.4 to 0.7)"]
    options = [option.text for option in root.one("select", id="order").all("option")]
    assert options[-2:] == ["lowest α first", "highest α first"]


def test_ticks_are_round_and_cover_the_values():
    rng = np.random.default_rng(0)
    for low, span in zip(rng.uniform(-50, 50, 300), 10 ** rng.uniform(-4, 4, 300), strict=True):
        found = ticks(low, low + span)
        assert found[0] <= low + 1e-6 * span and found[-1] >= low + (1 - 1e-6) * span
        assert 2 <= len(found) <= 8 and found == sorted(found)
        steps = np.diff(found)
        assert steps == pytest.approx(steps[0], rel=1e-4)
        assert f"{steps[0]:.2e}"[:4] in ("1.00", "2.00", "2.50", "5.00")
    assert len(ticks(0.5, 0.5)) >= 2


@pytest.mark.parametrize("count", [1, 2, POINTS, POINTS + 1, 3 * POINTS + 7, 20 * POINTS])
def test_long_lines_keep_their_ends(count):
    kept = thin(list(range(count)))
    assert kept[0] == 0 and kept[-1] == count - 1
    assert kept == sorted(set(kept)) and min(count, POINTS / 2) <= len(kept) <= POINTS + 1


# Every kind of run


def test_a_reference_has_one_score_and_no_curves(community, tmp_path, capsys):
    settings = {"method": "bm25", "data_path": str(community), "features_path": None, "test_csv": None, "k1": 1.5}
    settings |= {"datatype": "custom", "caption_source": "caption", "seed": 0}
    run = write_small_run(tmp_path / "bm25", community, {"fused": FUSED})
    (run / "args.json").write_text(json.dumps(settings))
    _, root, data = report(run, out=tmp_path / "page.html")
    rows = root.one("section", id="results").all("table")[0].rows()
    assert [row[0] for row in rows[1:]] == ["BM25 over captions", "random ranking"]
    assert "it has no curves" in root.one("section", id="curves").text
    assert not root.all("section", id="gains") and not root.all("section", id="alpha")
    assert all(len(meme) == 2 for query in data["queries"] for meme in query["runs"][0]["best"])
    facts = {cells[0]: cells[1] for cells in root.one("section", id="facts").one("table").rows()}
    assert "k1 1.5" in facts["settings that are not the defaults"] and "α, the weight of QI" not in facts


def test_a_run_of_one_branch_beside_one_of_two(folder, community, tmp_path):
    evaluations = [evaluation("joint", 1, 4, qi=10, fused=10)]
    one = write_small_run(
        *(tmp_path / "one", community, {"qi": QI, "fused": QI}),
        losses=[loss("joint", 1, 4, total=3, qi=3)],
        evaluations=evaluations,
        changes={"best_epoch": {"stage": "joint", "epoch": 1, "val": {"mAP": 10.0}}},
        branches="qi",
    )
    _, root, data = report(folder, one, out=tmp_path / "page.html")
    rows = root.one("section", id="results").all("table")[0].rows()
    assert [row[0] for row in rows[5:]] == ["one", "QI", "random ranking"]
    headings = [heading.text for heading in root.one("section", id="gains").all("h3")]
    assert headings == ["From first to one", "From QC: first"]
    training, precision, *_ = root.one("section", id="curves").all("figure")
    assert tips(training) == ["step 4\ntotal  3"] and tips(precision) == ["epoch 1\nQI  10"]
    assert [len(run["best"][0]) for run in data["queries"][0]["runs"]] == [4, 2]


def test_a_real_run(tmp_path):
    """The formats are those that the program writes."""
    from tests.tiny_community import Place, run

    place = Place(tmp_path, train=2, val=1, test=1, topics=4)
    code, printed = run(place.flags("run", "--epochs", "1", "--interaction", "wti"))
    assert code == 0, printed
    out = place.folder / "run" / "report.html"
    made = subprocess.run(
        [sys.executable, "-c", NO_TORCH, str(place.folder / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0 and "\r" not in made.stderr, made.stderr
    assert "1 run, 4 queries, 4 memes: written to" in made.stdout
    data, record = embedded_data(out.read_text(encoding="utf-8")), QueryRecord.load(place.folder / "run")
    names, values = record.values("fused")
    expected = values[:, names.index("mAP")]
    assert [query["runs"][0]["ap"] for query in data["queries"]] == pytest.approx(expected, abs=1e-4)
    for query in data["queries"]:
        words = query["runs"][0]["words"]
        assert "".join(text for text, _ in words) == f"<start>{query['text']} <end>"
        assert sum(weight for _, weight in words) == pytest.approx(1, abs=1e-3)
    root = parsed(out.read_text(encoding="utf-8"))
    assert len(root.one("section", id="curves").all("figure")) == 6
    assert all(meme["picture"] is not None for meme in data["memes"])


NO_TORCH = """
import sys
import scripts.report
assert "numpy" not in sys.modules, "--help would be slow"
scripts.report.main(sys.argv[1:])
assert "torch" not in sys.modules
"""


# Texts from data

HOSTILE = [
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(2)"> \'"` &amp; &lt;b&gt;',
    "]]><!-- -->\u2028\u2029\\u003c {{x}} ${y}",
    "مرحبا بالعالم \u202e 一二三 🙃\nsecond line\ttab",
]


def test_texts_from_data_are_texts(tmp_path):
    memes = [
        {"captions": [text], "emotions": [text], "text": text, "image_id": f"id {text}".strip()} for text in HOSTILE
    ]
    data_folder = write_community(tmp_path / "data", HOSTILE, memes, [(n, n) for n in range(4)])
    scores = {name: np.eye(4, dtype=np.float32)[::-1] for name in ("qi", "qc", "fused")}
    scores["qi"] = np.eye(4, dtype=np.float32)
    words = [[(text, 1.0)] for text in HOSTILE]
    run = write_run_on(tmp_path / "<b> & 'run'", data_folder, scores, [0.5] * 4, words, method=None, note=HOSTILE[0])
    text, root, data = report(run, out=tmp_path / "page.html")
    assert [query["text"] for query in data["queries"]] == HOSTILE
    assert [query["runs"][0]["words"][0][0] for query in data["queries"]] == HOSTILE
    for meme in data["memes"]:
        assert meme["captions"] == [meme["text"]] == [meme["id"].removeprefix("id ")]
    assert len(root.all("script")) == 2 and not root.all("img")
    assert {button.text for button in root.all("button", class_="link") if "data-query" in button.attributes} == set(
        HOSTILE
    )
    assert "<img" not in text and "alert(1)</script>" not in text and "\u2028" not in text.split('id="data"')[1]
    assert "<b> & 'run'" in root.one("title").text and "<b> &" not in text


def test_the_page_allows_its_own_script_only(page):
    text, root, _ = page
    rules = next(meta for meta in root.all("meta") if "http-equiv" in meta.attributes).attributes["content"]
    script = root.all("script")[-1].text
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in rules and f"script-src 'sha256-{checksum}'" in rules
    for element in ("link", "iframe", "object", "base"):
        assert not root.all(element)
    assert not [a for a in root.all("a") if not a.attributes["href"].startswith("#")]


# Pictures and the size of the file


def photograph(rng, height, width):
    """Smooth shapes, edges and grain."""
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    for _ in range(12):
        corner, colour = rng.integers(0, min(height, width), 2), rng.integers(0, 256, 3).tolist()
        cv2.rectangle(picture, tuple(map(int, corner)), tuple(map(int, corner + rng.integers(5, 60, 2))), colour, -1)
    return np.clip(picture + rng.normal(0, 40, picture.shape), 0, 255).astype(np.uint8)


def test_4000_memes_make_less_than_20_mb(tmp_path, monkeypatch):
    """Photograph-like memes with grain, which compress badly, and long captions. Equal files are shrunk once."""
    monkeypatch.setattr(thumbnails_module, "thumbnail", functools.cache(thumbnails_module.thumbnail))
    memes = [{"captions": ["seven words about the picture " * 8] * 4, "emotions": ["happy"]} for _ in range(4000)]
    pairs = [(meme // 10, meme) for meme in range(4000)]
    data_folder = write_community(tmp_path / "data", [f"query {n}" for n in range(400)], memes, pairs)
    rng = np.random.default_rng(0)
    for number in range(4000):
        path = data_folder / "images" / f"{number}.png"
        path.unlink()
        if number < 20:
            path.write_bytes(encoded(photograph(rng, 240, 300), ".jpg"))
        else:
            path.hardlink_to(path.with_stem(str(number % 20)))
    scores = np.kron(np.eye(400), np.ones((1, 10))) + np.linspace(0, 0.5, 4000)
    run = write_run_on(tmp_path / "run", data_folder, {"fused": scores.astype(np.float32)})
    out = tmp_path / "page.html"
    main([str(run), "--out", str(out)])
    assert 10e6 < out.stat().st_size < 20e6
    data = embedded_data(out.read_text(encoding="utf-8"))
    assert len(data["memes"]) == len(data["pictures"]) == 4000


def test_thumbnails_keep_within_any_budget(tmp_path):
    rng = np.random.default_rng(1)
    names = [f"{number}.jpg" for number in range(12)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (200, 300, 3)).astype(np.uint8))
    sides = []
    for budget in (10**7, 10**5, 20_000, 600, 0):
        made, bad = thumbnails(tmp_path, names, budget, progress=False)
        assert sum(map(len, made.values())) <= budget
        assert list(made) == names[: len(made)] and list(bad) == names[len(made) :]
        sides.append(max((side_of(webp) for webp in made.values()), default=0))
    assert sides[0] == 256 and sides == sorted(sides, reverse=True) and len(set(sides)) > 2
    assert len(made) == 0 and "too large" in bad["0.jpg"]


def side_of(webp):
    return max(cv2.imdecode(np.frombuffer(webp, np.uint8), cv2.IMREAD_COLOR).shape)


def encoded(pixels, kind=".png"):
    return cv2.imencode(kind, pixels)[1].tobytes()


def test_first_pictures():
    red, blue = (np.full((60, 80, 3), colour, np.uint8) for colour in ((0, 0, 255), (255, 0, 0)))
    assert first_picture(encoded(red), 50)[0, 0].tolist() == [0, 0, 255]
    clear = np.dstack([red, np.where(np.arange(80) < 40, 255, 0).astype(np.uint8) * np.ones((60, 1), np.uint8)])
    picture = first_picture(encoded(clear), 50)  # transparent on the right: white
    assert picture[0, 0].tolist() == [0, 0, 255] and picture[0, 79].tolist() == [255, 255, 255]
    animation = cv2.Animation()
    animation.frames, animation.durations = [blue, red], [100, 100]
    _, data = cv2.imencodeanimation(".gif", animation)
    assert np.abs(first_picture(data.tobytes(), 50)[5, 5].astype(int) - [255, 0, 0]).max() < 10
    grey = np.full((60, 80), 77, np.uint8)
    assert first_picture(encoded(grey), 50)[3, 3].tolist() == [77] * 3
    deep = np.full((60, 80, 3), 200 * 257, np.uint16)
    assert first_picture(encoded(deep), 50)[3, 3].tolist() == [200] * 3
    large = cv2.resize(red, (1600, 1200))
    reduced = first_picture(encoded(large, ".jpg"), 180)
    assert reduced.shape == (150, 200, 3) and np.abs(reduced[0, 0].astype(int) - [0, 0, 255]).max() < 5


def test_a_photograph_lies_as_its_exif_says():
    wide = np.zeros((60, 80, 3), np.uint8)
    jpeg = encoded(wide, ".jpg")
    orientation = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # turned by 90 degrees
    exif = b"Exif\0\0" + orientation
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    assert first_picture(jpeg[:2] + segment + jpeg[2:], 50).shape == (80, 60, 3)


def test_long_pictures_show_their_beginning(tmp_path):
    strip = np.zeros((3000, 100, 3), np.uint8)
    strip[:300] = 255
    cv2.imwrite(str(tmp_path / "strip.png"), strip)
    made, _ = thumbnails(tmp_path, ["strip.png"], 10**6, progress=False)
    picture = cv2.imdecode(np.frombuffer(made["strip.png"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (256, 85, 3) and picture.mean() > 250


def test_images_that_cannot_be_read_are_told(community, folder, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for path in (community / "images").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "0.png").write_bytes(b"no image")
    (images / "1.png").unlink()
    _, _, data = report(folder, "--features_path", images, out=tmp_path / "page.html")
    printed = capsys.readouterr().out
    assert "2 memes are shown without a picture" in printed and "not a JPEG, PNG" in printed
    without = {meme["id"] for meme in data["memes"] if meme["picture"] is None}
    assert without == {"m0", "m1"} and len(data["pictures"]) == len(SHOWN) - 2


# Where the data are, and errors


def test_data_that_have_moved(folder, community, tmp_path, capsys):
    run = write_small_run(tmp_path / "run", community, data_path="gone")
    message = error(capsys, run, "--out", tmp_path / "page.html")
    assert "gone/test.csv: no such file" in message and "--data_path" in message
    _, _, data = report(run, "--data_path", community, out=tmp_path / "page.html")
    assert len(data["pictures"]) == len(SHOWN)
    (tmp_path / "elsewhere").mkdir()
    csv = (community / "test.csv").rename(tmp_path / "elsewhere" / "other.csv")
    try:
        message = error(capsys, folder, "--test_csv", csv, "--features_path", tmp_path / "none")
        assert "none: no such folder of images" in message and "--features_path" in message
        report(folder, "--test_csv", csv, out=tmp_path / "page.html")
    finally:
        csv.rename(community / "test.csv")


def test_a_changed_csv_is_told(folder, community, tmp_path, capsys):
    rows = read_csv(community / "test.csv")
    rows[0]["captions"] = '["another caption"]'
    write_csv(tmp_path / "test.csv", rows)
    _, root, _ = report(folder, "--test_csv", tmp_path / "test.csv", out=tmp_path / "page.html")
    assert "test.csv is not the same file" in root.one("p", class_="note").text
    assert "note: test.csv is not the same file" in capsys.readouterr().out


def test_a_csv_of_other_data_is_refused(folder, community, tmp_path):
    rows = read_csv(community / "test.csv")
    [run] = read_runs([folder])

    def message(changed):
        write_csv(tmp_path / "test.csv", changed)
        with pytest.raises(InputError) as raised:
            read_community([run], test_csv=tmp_path / "test.csv")
        return str(raised.value)

    assert "has no topic_id 't3'" in message([row for row in rows if row["topic_id"] != "t3"])
    assert "has no image_id 'm1'" in message([row for row in rows if row["image_id"] != "m1"])
    assert "distinct image_ids" in message([*rows, rows[0] | {"image_id": "new", "image": "new.png"}])
    swapped = [row | {"topic_id": rows[0]["topic_id"], "query": QUERIES[0]} if row is rows[2] else row for row in rows]
    assert "other memes were posted in its topics" in message(swapped)
    one_more = [*rows, rows[0] | {"topic_id": "t1", "query": QUERIES[1]}]
    assert "other memes were posted in its topics (17 records)" in message(one_more)


def test_a_run_without_bad_images_goes_with_the_whole_csv(community, tmp_path):
    """--skip_bad_images leaves out a meme, and with its last meme a topic."""
    less = tmp_path / "less"
    (less / "images").mkdir(parents=True)
    rows = read_csv(community / "test.csv")
    write_csv(less / "test.csv", [row for row in rows if row["image_id"] not in ("m2", "m15")])
    scores = np.delete(np.delete(scores_with(FUSED), 3, axis=0), [2, 15], axis=1)
    run = write_run_on(tmp_path / "run", less, {"fused": scores}, skip_bad_images=True)
    _, _, data = report(run, "--data_path", community, out=tmp_path / "page.html")
    assert [query["text"] for query in data["queries"]] == QUERIES[:3]
    assert {meme["id"] for meme in data["memes"]} <= {f"m{n}" for n in range(16)} - {"m2", "m15"}
    strict = write_run_on(tmp_path / "strict", less, {"fused": scores})
    with pytest.raises(InputError, match="distinct topic_ids"):
        read_community(read_runs([strict]), data_path=community)


def test_unfinished_and_wrong_folders(folder, community, tmp_path, capsys):
    unfinished = write_small_run(tmp_path / "unfinished", community)
    (unfinished / "metrics.json").unlink()
    assert "found no metrics.json, so the run is not finished" in error(capsys, folder, unfinished)
    old = write_small_run(tmp_path / "old", community)
    (old / "test_queries.npz").unlink()
    assert "found no test_queries.npz" in error(capsys, old)
    (tmp_path / "empty").mkdir()
    assert "it is not the folder of a run" in error(capsys, tmp_path / "empty")
    assert "no such folder" in error(capsys, tmp_path / "nowhere")
    assert "is given twice" in error(capsys, folder, folder)
    damaged = write_small_run(tmp_path / "damaged", community)
    (damaged / "metrics.json").write_text("{")
    assert "metrics.json: found no valid JSON" in error(capsys, damaged)
    assert "expected a file in a folder that is there" in error(capsys, folder, "--out", tmp_path / "no" / "page.html")


def test_runs_of_other_queries_or_memes_are_not_compared(folder, community, tmp_path, capsys):
    rows = read_csv(community / "test.csv")
    changes = {
        "queries": [row | {"topic_id": "T1"} if row["topic_id"] == "t1" else row for row in rows],
        "memes": [row | {"image_id": "M5"} if row["image_id"] == "m5" else row for row in rows],
    }
    for what, changed in changes.items():
        other = tmp_path / what
        (other / "images").mkdir(parents=True)
        write_csv(other / "test.csv", changed)
        run = write_small_run(tmp_path / f"run of other {what}", other)
        message = error(capsys, folder, run)
        assert f"the {what} of the test split are not those of {folder}" in message
        assert {"queries": "'T1' and 't1'", "memes": "'M5' and 'm5'"}[what] in message


def test_the_page_goes_into_the_first_run_and_replaces_itself(folder, community, tmp_path, capsys):
    run = write_small_run(tmp_path / "run", community)
    main([str(run), str(folder)])
    first = (run / "report.html").read_bytes()
    main([str(run), str(folder)])
    assert (run / "report.html").read_bytes() == first  # nothing in it depends on when it was made
    assert sorted(os.listdir(run)) == ["args.json", "metrics.json", "report.html", "run.json", "test_queries.npz"]
    assert f"written to {run / 'report.html'}" in capsys.readouterr().out
