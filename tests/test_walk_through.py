"""The whole way of docs/DATA.md with 20 real-looking memes, its output included: images in, a trained model out."""

import json
import re
import shlex

import pandas
import pytest
from rapidfuzz.distance import Levenshtein

from main_task_retrieval import main as train
from preprocess import annotate, build_community, imgflip, statistics
from preprocess.annotation.annotation_file import read_annotations
from tests.conftest import ROOT
from tests.preprocess.imgflip_checkout import write_checkout

COLUMNS = ["image", "topic_id", "query"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 memes without captions and emotions: images/, records.csv; and the texts that are on them."""
    folder = tmp_path_factory.mktemp("walk")
    write_checkout(folder / "checkout", memes=12)
    imgflip.main(["--source", str(folder / "checkout"), "--out", str(folder / "memes"), "--limit", "20"])
    rows = pandas.concat([pandas.read_csv(folder / "memes" / f"{split}.csv") for split in ("train", "val", "test")])
    rows[COLUMNS].to_csv(folder / "records.csv", index=False)
    rows[["image", "text"]].to_csv(folder / "truth.csv", index=False)
    return folder


def test_from_images_and_topics_to_a_trained_model(folder, capsys, monkeypatch):
    monkeypatch.setattr("preprocess.building.summary.path_of", lambda name: folder / "no-weights.pt")
    monkeypatch.chdir(folder)
    images = str(folder / "memes" / "images")
    annotations, community = folder / "annotations.jsonl", folder / "data" / "mine"
    annotate.main(["--images", images, "--out", str(annotations), "--provider", "local"])
    assert_documented("annotate", capsys.readouterr().out)
    rows = read_annotations(annotations).values()
    assert len(rows) == 20 and {row.status for row in rows} == {"ok"}
    truth = pandas.read_csv(folder / "truth.csv", index_col="image").text.str.lower()
    errors = [Levenshtein.distance(row.text.lower(), truth[row.image]) / len(truth[row.image]) for row in rows]
    assert sum(error < 0.1 for error in errors) >= 18

    build_community.main(
        ["--records", str(folder / "records.csv"), "--annotations", str(annotations), "--images", images]
        + ["--out", str(community), "--split", "0.6", "0.2", "0.2"]
    )
    printed = capsys.readouterr().out
    (command,) = [shlex.split(line) for line in printed.splitlines() if line.startswith("  python main_task_retrieval")]
    assert "--caption_source text" in " ".join(command), "what is printed says how to train without captions"
    assert_documented("build_community", printed)
    built = pandas.concat([pandas.read_csv(community / f"{split}.csv") for split in ("train", "val", "test")])
    given = pandas.read_csv(folder / "records.csv")
    assert sorted(built[COLUMNS].itertuples(index=False)) == sorted(given[COLUMNS].itertuples(index=False))
    assert dict(zip(built.image, built.text, strict=True)) == {row.image: row.text for row in rows}

    statistics.main(["data/mine", "--out", "data/mine_statistics", "--strict"])
    assert_documented("statistics", capsys.readouterr().out)
    found = json.loads((folder / "data" / "mine_statistics" / "statistics.json").read_text(encoding="utf-8"))
    assert found["communities"]["mine"]["total"]["memes"] == 20
    assert found["communities"]["mine"]["total"]["captions"]["memes_without"] == 20

    run = folder / "runs" / "mine"
    assert train([*command[2:], "--epochs", "1"]) == 0
    assert_documented("main_task_retrieval", capsys.readouterr().out)
    results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert results["memes"] == len(pandas.read_csv(community / "test.csv"))
    assert 0 < results["scores"]["fused"]["query_to_meme"]["metrics"]["mAP"] <= 100


def assert_documented(program, printed):
    """Each line that docs/DATA.md shows of a program's output is printed here too, but for numbers and paths."""
    page = (ROOT / "docs" / "DATA.md").read_text(encoding="utf-8")
    block = re.search(
        rf"^\$ python (?:-m preprocess\.)?{program}(?:\.py)? (?:.*\\\n)*.*\n((?:.*\n)*?)```", page, re.MULTILINE
    )[1]
    lines = [line for line in block.splitlines() if line.strip() not in ("", "…")]
    lines = [line for line in lines if "adds nothing" not in line]  # that depends on the data
    assert len(lines) > 5
    here = {shape(line) for line in printed.splitlines()}
    assert [line for line in lines if shape(line) not in here] == []


def shape(line):
    line = re.sub(r"[^\s:]*/[^\s:]*", "PATH", line)
    line = re.sub(r"\(best so far\) |[\[(][\d.,–+-]+[\])]", "", line)
    line = re.sub(r"fused minus Q[IC]", "fused minus a part", line)
    return " ".join(re.sub(r"[-+]?[\d.,]*\d", "0", line).split())
