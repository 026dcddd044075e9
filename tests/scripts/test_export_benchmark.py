"""scripts.export_benchmark: the files as their own programs read them, and a run that is scored by them."""

import csv
import json
import re

import pytest
import pytrec_eval

import metrics
from scripts import export_benchmark, reference
from tests.scripts.run_folders import write_community
from tests.tiny_community import read_csv, read_json

QUERIES = ["a cat\nat <work> & home", 'the "best" 猫', "dogs of war"]
MEMES = [
    {"image_id": "m 1", "captions": ["a cat works", "a desk"], "emotions": ["happy", "sad"], "text": "MONDAY"},
    {"image_id": '#"2"', "captions": ["猫 at home"], "text": "tab\there"},
    {"image_id": "50%", "captions": ["a dog in the war"]},
    {"captions": ["nothing of it"]},
]
PAIRS = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 3), (2, 0)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the community's folder, the exported one)."""
    folder = tmp_path_factory.mktemp("benchmark")
    community = write_community(folder / "community", QUERIES, MEMES, PAIRS)
    export_benchmark.main(["--data_path", str(community), "--out", str(folder / "out")])
    return community, folder / "out"


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def named(id):
    """An id as the files have it."""
    return re.sub(r'[\s%"#]', lambda found: f"%{ord(found[0]):02X}", id)


def test_the_folder_is_as_beir_reads_one(exported):
    community, out = exported
    corpus = {line["_id"]: line for line in read_lines(out / "corpus.jsonl")}
    assert list(corpus) == ["m%201", "%23%222%22", "50%25", "m3"]
    assert corpus["m%201"] == {
        "_id": "m%201",
        "title": "",
        "text": "a cat works\na desk",
        "metadata": {
            **{"image": "0.png", "captions": ["a cat works", "a desk"]},
            **{"emotions": ["happy", "sad"], "text": "MONDAY"},
        },
    }
    queries = {line["_id"]: line["text"] for line in read_lines(out / "queries.jsonl")}
    assert queries == {f"t{place}": query for place, query in enumerate(QUERIES)}
    with open(out / "qrels" / "test.tsv", encoding="utf-8", newline="") as file:
        heading, *rows = csv.reader(file, delimiter="\t")
    assert heading == ["query-id", "corpus-id", "score"]
    expected = {(row["topic_id"], named(row["image_id"]), "1") for row in read_csv(community / "test.csv")}
    assert set(map(tuple, rows)) == expected and len(rows) == len(expected)


def test_topics_and_qrels_are_as_trec_has_them(exported):
    _, out = exported
    text = (out / "topics.test.trec").read_text(encoding="utf-8")
    topics = re.findall(r"<top>\n<num> Number: (\S+)\n<title> (.*)\n<desc> .*\n<narr> .*\n</top>\n", text)
    assert topics == [(f"t{place}", " ".join(query.split())) for place, query in enumerate(QUERIES)]
    with open(out / "qrels.test.trec", encoding="utf-8") as file:
        judged = pytrec_eval.parse_qrel(file)
    assert judged["t0"] == {"m%201": 1, "%23%222%22": 1}


def test_a_run_scored_by_the_exported_qrels_has_the_runs_own_metrics(exported, tmp_path, capsys):
    community, out = exported
    argv = ["bm25", "--data_path", str(community), "--output_dir", str(tmp_path / "run"), "--save_run"]
    reference.main(argv)
    own = read_json(tmp_path / "run" / "metrics.json")["test"]["scores"]["fused"]["query_to_meme"]["metrics"]
    for qrels in ("qrels/test.tsv", "qrels.test.trec"):
        flags = ["--qrels", str(out / qrels), "--json", str(tmp_path / "scored.json")]
        assert metrics.main([str(tmp_path / "run" / "test.trec"), *flags]) == 0
        [row] = read_json(tmp_path / "scored.json")["query_to_meme"]["rows"]
        assert row["metrics"] == pytest.approx(own, rel=1e-12)


def test_another_text_and_a_split_that_is_not_there(exported, tmp_path):
    community, _ = exported
    argv = ["--data_path", str(community), "--out", str(tmp_path / "out")]
    export_benchmark.main([*argv, "--caption_source", "both"])
    assert read_lines(tmp_path / "out" / "corpus.jsonl")[0]["text"] == "a cat works\na desk\nMONDAY"
    with pytest.raises(SystemExit, match=r"train\.csv: no such file; --data_path is the folder"):
        export_benchmark.main([*argv, "--split", "train"])
