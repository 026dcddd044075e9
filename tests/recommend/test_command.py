"""`python -m recommend`: what it prints and writes, and how it refuses."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytrec_eval

from recommend import Answer, Found, Recommender, Request
from recommend.__main__ import lines, main, split_texts
from recommend.runs import read_queries
from tests.conftest import ROOT, names_with_spaces
from tests.recommend.models import save_model
from tests.tiny_community import Place, read_csv, write_csv
from util import InputError, sha256_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("command"), train=1, val=1, test=2)
    save_model(place, "model")
    assert main(command(place, "index", "--data_path", place.data)) == 0
    return place


def command(place, name, *more):
    target = place.folder / "index"
    flags = [name, "--model", place.folder / "model.pt", "--out", target] if name == "index" else [name, target]
    return [str(part) for part in (*flags, *more, *(() if name == "export" else ("--device", "cpu")))]


def printed(capsys, arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    told = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert "Traceback" not in told and told.count("\n") <= 1
    return told


def test_index_says_what_it_did(place, capsys):
    (place.data / "images" / "broken.png").write_bytes(b"no image")
    try:
        assert main(command(place, "index", "--data_path", place.data)) == 0
    finally:
        (place.data / "images" / "broken.png").unlink()
    found = capsys.readouterr()
    assert "32 memes; 0 encoded now, 32 known before, 0 gone" in found.out
    assert "a meme takes" in found.out
    assert "1 image cannot be used, left out:" in found.err and "broken.png: not a JPEG" in found.err


def test_search_prints_ranks_scores_and_texts(place, capsys):
    out = printed(capsys, command(place, "search", "life is red", "--top", "3"))
    memes = Recommender.open(place.folder / "index", device="cpu").search("life is red", top=3)
    assert "weights of the words: <start>" in out
    assert f"score = {memes[0].alpha:.2f} QI + {1 - memes[0].alpha:.2f} QC\n" in out
    for meme in memes:
        [line] = [line for line in out.splitlines() if str(meme.path) in line]
        assert line.split()[:5] == [
            *(str(meme.rank), f"{meme.score:.4f}", f"{meme.below:.2%}"),
            *(f"{meme.qi:.4f}", f"{meme.qc:.4f}"),
        ]
        assert meme.caption in out
    out = printed(capsys, command(place, "search", "life is red", "--min_score", "50"))
    assert out.endswith("nothing was found among 32 memes\n")
    out = printed(capsys, command(place, "search", "life is red", "+", "a ball", "--top", "1"))
    assert "the score joins several parts and may exceed 1: it compares memes within this search alone\n" in out
    assert "QI and QC are those of the first part, which counts as 0." in out
    out = printed(capsys, command(place, "search", "-", "life is red", "--top", "1"))
    assert f"score = -({memes[0].alpha:.2f} QI + {1 - memes[0].alpha:.2f} QC)\n" in out


def test_texts_and_names_do_not_command_the_terminal():
    meme = Found(
        1, "a", Path("a\nb\x9b.png"), 0.5, 0.5, 0.5, None, None, (), ("\x1b[2Jred \U0001f469\u200d\U0001f527",), "x\x07"
    )
    meme = dataclasses.replace(meme, duplicates=("c\x1b]0;d",))
    told = "\n".join(lines(Request("red"), Answer((meme,), gallery=2)))
    assert "a?b?.png" in told and "?[2Jred \U0001f469\u200d\U0001f527" in told and "x?" in told and "c?]0;d" in told
    assert not set(told) & {"\x1b", "\x07", "\x9b"}


def test_an_emotion_of_several_persons_is_told_once():
    meme = Found(1, "a", Path("a.png"), 0.5, 0.5, 0.5, None, None, ("fear", "happy", "fear"), ("red",), "")
    assert "[fear, happy] red" in "\n".join(lines(Request("red"), Answer((meme,), gallery=2)))


def test_search_prints_json_with_all_that_composes(place, tmp_path, capsys):
    first = json.loads(printed(capsys, command(place, "search", "life is red", "--json")))
    assert not names_with_spaces(first)
    assert first["gallery"] == 32 and [meme["rank"] for meme in first["memes"]] == list(range(1, 11))
    ids = [meme["id"] for meme in first["memes"]]
    (tmp_path / "seen.txt").write_text(f"{ids[0]}\n\n{ids[2]}\n", encoding="utf-8")
    texts = ["life is red", "+", "a grey ball", "-0.5", "nothing helps"]
    flags = ["--like", ids[1], "--emotion", "sad", "--seen", str(tmp_path / "seen.txt"), "--top", "4", "--duplicates"]
    found = json.loads(printed(capsys, command(place, "search", *texts, *flags, "--json")))
    recommender = Recommender.open(place.folder / "index", device="cpu")
    expected = recommender.search(
        "life is red",
        plus=[("a grey ball", 1)],
        minus=[("nothing helps", 0.5)],
        like=ids[1],
        emotion="sad",
        seen=[ids[0], ids[2]],
        top=4,
        duplicates=True,
    )
    assert [meme["id"] for meme in found["memes"]] == [meme.id for meme in expected]
    assert np.allclose([meme["score"] for meme in found["memes"]], [meme.score for meme in expected], atol=1e-6)
    path = recommender.image_path(ids[1])
    known = recommender.store.row_of_file(bytes.fromhex(sha256_of(path)))
    same = recommender.store.meme(known).image_id
    by_file = json.loads(printed(capsys, command(place, "search", "--like", path, "--json", "--duplicates")))
    by_id = json.loads(printed(capsys, command(place, "search", "--like", same, "--json", "--duplicates")))
    assert by_file == by_id and same not in [meme["id"] for meme in by_id["memes"]]


def test_queries_of_a_file_make_a_run_that_trec_eval_reads(place, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run.trec"
    started = SimpleNamespace(__spec__=SimpleNamespace(name="recommend.__main__"))  # by `python -m recommend`
    monkeypatch.setitem(sys.modules, "__main__", started)
    monkeypatch.setattr(sys, "argv", ["/x/recommend/__main__.py", "search", "INDEX"])
    queries = place.data / "test.csv"
    more = ("--queries", queries, "--out", run, "--top", "1000", "--duplicates")
    assert "8 queries" in printed(capsys, command(place, "search", *more))
    with open(run, encoding="utf-8") as file:
        parsed = pytrec_eval.parse_run(file)
    relevant: dict[str, dict[str, int]] = {}
    for row in read_csv(queries):
        relevant.setdefault(row["topic_id"], {})[row["image_id"]] = 1
    assert {topic: len(found) for topic, found in parsed.items()} == dict.fromkeys(relevant, 32)
    values = pytrec_eval.RelevanceEvaluator(relevant, {"map"}).evaluate(parsed)
    assert all(0 < value["map"] <= 1 for value in values.values())
    recommender = Recommender.open(place.folder / "index", device="cpu")
    texts = {row["topic_id"]: row["query"] for row in read_csv(queries)}
    for topic, query in texts.items():
        for meme in recommender.search(query, top=1000, duplicates=True):
            assert abs(parsed[topic][meme.id] - meme.score) < 1e-6
    beside = json.loads((tmp_path / "run.trec.json").read_text(encoding="utf-8"))
    assert beside["data"]["test collection"]["sha256"] == sha256_of(queries)
    assert beside["implementation"]["executable"]["cmd"].endswith(" -m recommend search INDEX")
    assert beside["method"]["retrieval"][-1]["checkpoint"]["sha256"] == recommender.model.sha256


def test_queries_of_a_file_make_a_csv(place, tmp_path, capsys):
    (tmp_path / "queries.txt").write_text("life is red\n\nq7\tlife is blue, 中文\n", encoding="utf-8")
    run = tmp_path / "run.csv"
    printed(capsys, command(place, "search", "--queries", tmp_path / "queries.txt", "--out", run, "--top", "2"))
    with open(run, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query_id"], row["query"], row["rank"]) for row in rows] == [
        *(("1", "life is red", "1"), ("1", "life is red", "2")),
        *(("q7", "life is blue, 中文", "1"), ("q7", "life is blue, 中文", "2")),
    ]
    assert all(0 <= float(row["below"]) <= 1 and float(row["qi"]) for row in rows)


def test_ids_with_spaces_are_one_word_in_a_run(place, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    row = read_csv(place.data / "test.csv")[0]
    write_csv(data / "test.csv", [row | {"image_id": "a b%c"}])
    flags = ["--model", place.folder / "model.pt", "--data_path", data, "--images", place.data / "images"]
    printed(capsys, ["index", *map(str, flags), "--out", str(tmp_path / "index"), "--device", "cpu"])
    (tmp_path / "queries.txt").write_text("life is red\n", encoding="utf-8")
    more = ["--queries", tmp_path / "queries.txt", "--out", tmp_path / "run", "--top", "100", "--duplicates"]
    printed(capsys, ["search", str(tmp_path / "index"), *map(str, more), "--device", "cpu"])
    words = [line.split() for line in (tmp_path / "run").read_text(encoding="utf-8").splitlines()]
    assert {len(line) for line in words} == {6} and "a%20b%25c" in [line[2] for line in words]


def test_queries_that_cannot_be_read(tmp_path):
    for name, text, message in (
        ("a.txt", " \n", "found no query"),
        ("a.txt", "1\ta\n1\tb\n", "the id '1' with two queries"),
        ("a.txt", "1\t \n", "an empty id or query"),
        ("a.csv", "id,query\n1,a\n", "expected also topic_id"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_queries(tmp_path / name)
    (tmp_path / "latin.txt").write_bytes(b"\xe4\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_queries(tmp_path / "latin.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_queries(tmp_path / "nowhere.txt")


def test_features_are_exported(place, tmp_path, capsys):
    out = printed(capsys, command(place, "export", "--out", tmp_path / "features.npz"))
    assert "32 memes; ids, paths, tokens_per_meme" in out
    with np.load(tmp_path / "features.npz") as file:
        assert file["caption"].shape == (32, 32) and file["caption"].dtype == np.float16
    told = refused(capsys, command(place, "export", "--out", tmp_path / "features.csv"))
    assert "features.csv: expected a name that ends in .npz" in told and not (tmp_path / "features.csv").exists()


def test_sentences_after_a_sign():
    assert split_texts(["a", "+", "b", "-2.5", "c", "+.5", "d"]) == ("a", [("b", 1.0), ("d", 0.5)], [("c", 2.5)])
    assert split_texts(["+", "b"]) == ("", [("b", 1.0)], [])
    assert split_texts([]) == ("", [], [])
    for pieces, message in ((["a", "b"], "needs quotes"), (["a", "+"], r"no sentence after \+")):
        with pytest.raises(InputError, match=message):
            split_texts(pieces)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to search for"),
        (("a", "--top", "0"), "top is 0"),
        (("a", "--like", "nothing"), "neither a meme of the index with this id nor such a file"),
        (("a", "--like", __file__), "not a JPEG"),
        (("a", "--emotion", "joyful"), "none of the model's emotions"),
        (("a", "--seen", "nowhere.txt"), "--seen nowhere.txt: cannot be read"),
        (("a", "--queries", "q.txt", "--out", "run"), "no TEXT"),
        (("--queries", "q.txt"), "--queries and --out go together"),
        (("a", "--model", "nowhere.pt"), "nowhere.pt: found no such checkpoint"),
        (("a", "--top", "many"), "invalid int value"),
    ],
)
def test_bad_searches_are_refused_in_a_line(place, capsys, arguments, message):
    assert message in refused(capsys, command(place, "search", *arguments))


def test_other_bad_commands_are_refused_in_a_line(place, tmp_path, capsys):
    assert "holds no index" in refused(capsys, ["search", str(tmp_path), "a"])
    assert "no such checkpoint" in refused(
        capsys, ["index", "--model", "no.pt", "--images", str(place.data), "--out", "x"]
    )
    assert "--images" in refused(capsys, ["index", "--model", str(place.folder / "model.pt"), "--out", "x"])
    assert "COMMAND" in refused(capsys, [])


def test_help_answers_at_once():
    program = """
import sys
import recommend.__main__
try:
    recommend.__main__.main(["--help"])
except SystemExit:
    assert not {"torch", "cv2", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "index" in done.stdout and "search" in done.stdout and "export" in done.stdout


def test_processes_that_torchrun_starts_share_the_work(place, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "recommend"]
    flags = ["--model", place.folder / "model.pt", "--data_path", place.data, "--out", tmp_path / "i"]
    done = subprocess.run(
        [*launcher, "index", *map(str, flags), "--device", "cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("32 memes; 32 encoded now") == 1
    one, two = (Recommender.open(folder, device="cpu") for folder in (place.folder / "index", tmp_path / "i"))
    found = [each.search("life is red", top=1000, duplicates=True) for each in (one, two)]
    scores = [{meme.id: meme.score for meme in answer} for answer in found]
    assert scores[0].keys() == scores[1].keys()
    assert all(abs(scores[0][image_id] - scores[1][image_id]) < 1e-3 for image_id in scores[0])
