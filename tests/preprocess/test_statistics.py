"""Duplicates, leakage and topics against brute force and cases made here; the command, its files and exit codes."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import cv2
import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dataloaders.meme_records import Meme, read_splits
from preprocess import statistics
from preprocess.comparing.image_facts import image_facts
from preprocess.measuring import plots
from preprocess.measuring.number_tables import aligned, display_width, latex, latex_table, markdown, wrapped
from preprocess.measuring.quality import (
    compared_texts,
    duplicate_pairs,
    near_identical_queries,
    same_template,
    splits_by_meme,
)
from tests.conftest import ROOT, names_with_spaces
from tests.tiny_community import write_csv

SPLITS = ("train", "val", "test")
BAD_EXIT = 1


def picture(seed, size=(120, 90)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


class Maker:
    """Writes a community meme by meme: `add` draws the image, `write` the CSVs."""

    def __init__(self, folder):
        self.folder, self.rows = folder, {name: [] for name in SPLITS}
        (folder / "images").mkdir(parents=True)

    def add(self, split, image_id, pixels=None, copy_of=None, topic="t1", query="about life", **cells):
        file = f"{image_id}.png"
        if copy_of:
            shutil.copy(self.folder / "images" / f"{copy_of}.png", self.folder / "images" / file)
        elif not (self.folder / "images" / file).exists():
            pixels = picture(len(list((self.folder / "images").iterdir()))) if pixels is None else pixels
            assert cv2.imwrite(str(self.folder / "images" / file), pixels)
        row = {
            "image_id": image_id,
            "image": file,
            "topic_id": topic,
            "query": query,
            "emotions": "",
            "text": image_id * 3,
        }
        self.rows[split].append(row | {"captions": json.dumps([f"shows {image_id}"])} | cells)
        return self

    def write(self):
        for split, rows in self.rows.items():
            write_csv(self.folder / f"{split}.csv", rows)
        return self.folder


@pytest.fixture
def clean(tmp_path):
    """A community without any fault: three memes per split, one topic in all."""
    maker = Maker(tmp_path / "memes")
    for split, letters in zip(SPLITS, ("abc", "def", "ghi"), strict=True):
        for letter in letters:
            maker.add(split, letter)
    return maker


def run(maker, *flags):
    """The exit code and the report; the results lie beside the community, which is found in the present folder.

    The plots are made, but not drawn as pictures, which would take longer than all else.
    """
    maker.write()
    out, code = maker.folder.parent / "out", 0
    try:
        with mock.patch.object(plots, "_save"):
            statistics.main([str(maker.folder), "--out", str(out), *flags])
    except SystemExit as error:
        code = BAD_EXIT if isinstance(error.code, str) else error.code
    return code, json.loads((out / "statistics.json").read_text(encoding="utf-8"))["communities"]["memes"]


def found_pairs(maker):
    with open(maker.folder.parent / "out" / "duplicates.csv", encoding="utf-8", newline="") as file:
        return [
            (row["kind"], row["image_id_a"], row["image_id_b"], row["across_splits"]) for row in csv.DictReader(file)
        ]


def test_a_clean_community_passes_strict(clean, capsys):
    code, report = run(clean, "--strict", "--split_by", "record")
    assert code == 0 and report["problems"] == []
    assert report["leakage"] == {"memes": 0, "exact": 0, "near": 0}
    assert found_pairs(clean) == []
    assert not (clean.folder.parent / "out" / "duplicates_memes.png").exists()
    assert "WARNING" not in capsys.readouterr().out


FAULTS = {
    "the same meme in two splits": (lambda m: m.add("test", "a"), "memes", 1, []),
    "the same file in two splits": (lambda m: m.add("val", "x", copy_of="a"), "exact", 1, [("exact", "a", "x", "yes")]),
    "nearly the same meme in two splits": (
        lambda m: m.add("test", "x", picture(0) // 2 + 60, text="aaa"), "near", 1, [("near", "a", "x", "yes")]),
    "the same file in one split": (lambda m: m.add("train", "x", copy_of="a"), None, 0, [("exact", "a", "x", "no")]),
    "nearly the same meme in one split": (
        lambda m: m.add("train", "x", picture(0) // 2 + 60, text=" AAA"), None, 0, [("near", "a", "x", "no")]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_fails_under_strict(clean, capsys, fault):
    spoil, leak, count, pairs = FAULTS[fault]
    spoil(clean)
    code, report = run(clean, "--strict")
    printed = capsys.readouterr().out
    assert code == BAD_EXIT
    assert {kind: n for kind, n in report["leakage"].items() if n} == ({leak: count} if leak else {})
    assert found_pairs(clean) == pairs
    warnings = [line for line in printed.splitlines() if line.startswith("WARNING: memes: ")]
    assert len(warnings) == len(report["problems"]) == (leak is not None) + len(pairs)
    assert ("a (train) = x (" if pairs else "memes in two splits: 1: a") in printed


def test_a_copy_with_nearly_the_same_text_is_one_pair(clean):
    clean.add("train", "x", copy_of="a", text="0123456789").rows["train"][0]["text"] = "0123456780"
    run(clean)
    assert found_pairs(clean) == [("exact", "a", "x", "no")]


def test_two_copies_that_are_in_the_same_two_splits_are_across_them(clean):
    clean.add("val", "a").add("val", "x", copy_of="a").add("train", "x")
    _, report = run(clean)
    assert found_pairs(clean) == [("exact", "a", "x", "yes")]
    assert report["leakage"] == {"memes": 2, "exact": 1, "near": 0}


def test_without_strict_the_warning_is_all(clean, capsys):
    clean.add("val", "x", copy_of="a")
    code, _ = run(clean)
    assert code == 0
    assert "WARNING: memes: leakage, pairs of exact duplicates across splits: 1: a (train) =" in capsys.readouterr().out


def test_the_same_picture_with_another_text_is_no_duplicate(clean):
    clean.add("test", "x", picture(0) // 2 + 60, text="something else")
    code, report = run(clean, "--strict")
    assert code == 0 and found_pairs(clean) == []
    template = report["duplicates"]["same_template"]
    assert (template["pairs"], template["pairs_across_splits"], template["share"]) == (1, 1, 1.0)


def test_topics_and_queries_in_two_splits_matter_when_topics_were_split(clean):
    for split, topic, query in (("train", "t2", "Cats  at NIGHT"), ("val", "t3", "cats at night")):
        for meme in clean.rows[split][:]:
            clean.add(split, meme["image_id"], topic=topic, query=query, text=meme["text"])
    code, report = run(clean, "--strict", "--split_by", "record")
    assert code == 0 and "queries" not in report["leakage"]
    code, report = run(clean, "--strict", "--split_by", "topic")
    assert code == BAD_EXIT
    assert report["leakage"]["topics"] == 1  # t1 is in all three
    assert report["leakage"]["queries"] == 2  # its query and that of t2 and t3
    assert any("queries in two splits: 2" in problem and "cats at night" in problem for problem in report["problems"])


def test_small_topics_and_near_identical_queries(clean):
    clean.add("train", "a", topic="small", query="about  Life!").add("train", "b", topic="small", query="about  Life!")
    code, report = run(clean, "--strict", "--min_memes", "3")
    assert code == 0  # they do not spoil an evaluation
    assert report["topics"]["small"] == {"train": ["small"], "val": [], "test": []}
    assert report["topics"]["near_identical_queries"]["train"] == [[["t1", "about life"], ["small", "about  Life!"]]]
    assert report["topics"]["near_identical_queries"]["val"] == []
    assert run(clean, "--min_memes", "2")[1]["topics"]["small"]["train"] == []


def test_without_any_text_the_captions_are_compared(clean):
    clean.add("test", "x", picture(0) // 2 + 60, captions='["shows a"]')
    for rows in clean.rows.values():
        for row in rows:
            row["text"] = ""
    code, report = run(clean, "--strict")
    assert code == BAD_EXIT and report["duplicates"]["compared"] == "captions"
    assert found_pairs(clean) == [("near", "a", "x", "yes")]
    page = (clean.folder.parent / "out" / "statistics.md").read_text(encoding="utf-8")
    assert "what their captions quote (no meme has a text)" in page


def test_compared_texts():
    memes = [Meme("a", "a.png", ("one", "two"), (), ""), Meme("b", "b.png", ("three",), (), " ")]
    assert compared_texts(memes) == (["one\ntwo", "three"], "captions")
    quoting = ("A cat stares.", 'The text reads: "so tired"', "一只猫，旁边写着“我很累，真的很累啊”。")
    memes.append(Meme("q", "q.png", quoting, (), ""))
    assert compared_texts(memes) == (["one\ntwo", "three", "我很累，真的很累啊"], "captions")
    del memes[-1]
    memes.append(Meme("c", "c.png", (), (), "words"))
    assert compared_texts(memes) == (["", " ", "words"], "text")


def test_unreadable_and_missing_images_are_reported(clean, capsys):
    clean.add("val", "broken").add("val", "absent").add("val", "broken2")
    clean.write()
    for name in ("broken", "broken2"):
        (clean.folder / "images" / f"{name}.png").write_bytes(b"no image at all")
    (clean.folder / "images" / "absent.png").unlink()
    code, report = run(clean)
    assert code == 0
    assert report["splits"]["val"]["images"]["unreadable"] == 3 and report["total"]["images"]["formats"] == {"PNG": 9}
    assert set(report["unreadable"]) == {"absent.png", "broken.png", "broken2.png"}
    printed = capsys.readouterr().out
    assert "3 images cannot be read" in printed and "absent.png" in printed
    assert "WARNING: memes: images that cannot be read, and are not compared: 3" in printed
    assert found_pairs(clean) == [("exact", "broken", "broken2", "no")]  # their bytes are the same all the same
    assert (clean.folder.parent / "out" / "duplicates_memes.png").stat().st_size > 1000


def test_an_image_that_nobody_can_compare_fails_strict(clean):
    clean.add("test", "absent").write()
    (clean.folder / "images" / "absent.png").unlink()
    assert run(clean, "--strict")[0] == BAD_EXIT


def test_the_results_do_not_go_into_the_community(clean):
    clean.write()
    before = sorted(clean.folder.iterdir())
    with pytest.raises(SystemExit, match="is the community itself"):
        statistics.main([str(clean.folder), "--out", str(clean.folder)])
    assert sorted(clean.folder.iterdir()) == before


def edit_distance(a, b):
    """Levenshtein's, by the textbook."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def similar(a, b):
    return a == b or edit_distance(a, b) / max(len(a), len(b)) <= 0.1


def test_duplicates_against_all_pairs_by_imagehash(tmp_path):
    rng = np.random.default_rng(3)
    maker = Maker(tmp_path / "memes")
    texts = ["", "one does not simply", "one does not simpli", "one does not", "nobody", "0123456789", "012345678x"]
    for number in range(60):
        pixels = (
            picture(number % 12).astype(int) + rng.integers(0, 40) + rng.normal(0, rng.integers(1, 40), (90, 120, 1))
        )
        split = SPLITS[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
        maker.add(split, f"m{number}", np.clip(pixels, 0, 255).astype(np.uint8), text=str(rng.choice(texts)))
    for number in range(4):
        maker.add("val", f"copy{number}", copy_of=f"m{number}", text="of its own")
    folder = maker.write()
    splits, _ = read_splits({name: folder / f"{name}.csv" for name in SPLITS}, folder / "images")
    memes = [meme for meme, _ in splits_by_meme(splits).values()]
    facts = image_facts(folder / "images", [meme.image for meme in memes], progress=False)
    pairs, counts = duplicate_pairs(splits, facts, hash_threshold=10)

    where = {row["image_id"]: split for split, rows in maker.rows.items() for row in rows}
    hashes = {meme.image_id: imagehash.phash(Image.open(folder / "images" / meme.image)) for meme in memes}
    data = {meme.image_id: (folder / "images" / meme.image).read_bytes() for meme in memes}
    exact, near, template = set(), set(), 0
    template_across = 0
    for a, b in itertools.combinations(memes, 2):
        ids = frozenset((a.image_id, b.image_id))
        agree = hashes[a.image_id] - hashes[b.image_id] <= 10
        template += agree
        template_across += agree and where[a.image_id] != where[b.image_id]
        if data[a.image_id] == data[b.image_id]:
            exact.add(ids)
        elif agree and similar(a.text, b.text):
            near.add(ids)
    found = {
        kind: {frozenset((p.first.image_id, p.second.image_id)) for p in pairs if p.kind == kind}
        for kind in ("exact", "near")
    }
    assert found == {"exact": exact, "near": near}
    assert len(exact) == 4 and 5 < len(near) < template < 60 * 59 / 2
    for pair in pairs:
        a, b = pair.first.image_id, pair.second.image_id
        assert pair.hash_distance == hashes[a] - hashes[b]
        assert pair.across == (where[a] != where[b]) == (pair.first_splits != pair.second_splits)
        longest = max(len(pair.first.text), len(pair.second.text), 1)
        assert pair.text_distance == pytest.approx(edit_distance(pair.first.text, pair.second.text) / longest)
    assert counts["near"]["pairs"] == len(near)
    assert counts["near"]["pairs_across_splits"] == sum(len({where[i] for i in ids}) == 2 for ids in near)
    assert counts["same_template"]["pairs"] == template
    assert counts["same_template"]["pairs_across_splits"] == template_across
    kinds = [(pair.kind, not pair.across) for pair in pairs]
    assert kinds == sorted(kinds)


def test_many_copies_make_no_square_of_pairs():
    memes = [Meme(f"m{i}", f"{i}.png", (), (), "text") for i in range(300)]
    split = SimpleNamespace(memes=memes)
    facts = SimpleNamespace(
        sha256=np.array(["0" * 64] * 299 + ["1" * 64]), phash=np.zeros(300, np.uint64), kind=np.array(["PNG"] * 300)
    )
    pairs, counts = duplicate_pairs({"train": split}, facts, 0)
    assert (counts["exact"]["pairs"], counts["exact"]["memes"], counts["exact"]["groups"]) == (298, 299, 1)
    assert [(pair.first.image_id, pair.second.image_id) for pair in pairs if pair.kind == "near"] == [("m0", "m299")]


def test_a_template_in_two_splits_is_leakage_where_the_splits_are_by_template(clean):
    clean.add("test", "x", picture(0) // 2 + 60, text="another text")
    code, report = run(clean, "--strict")
    assert code == 0 and "templates" not in report["leakage"]
    code, report = run(clean, "--strict", "--split_by", "template")
    assert code == BAD_EXIT and report["leakage"]["templates"] == 1
    assert report["problems"] == ["memes: leakage, templates in two splits, by their first memes: 1: a"]


def test_same_template_against_all_pairs():
    rng = np.random.default_rng(0)
    for n, threshold in ((0, 3), (1, 3), (2500, 2), (2500, 0)):  # more than a block
        hashes = rng.integers(0, 2**20, n).astype(np.uint64) << np.uint64(40)
        hashes[: n // 3] = hashes[0] if n else 0
        splits = rng.integers(0, 3, n)
        found = same_template(hashes, splits, threshold)
        i, j = np.triu_indices(n, 1)
        difference = hashes[i] ^ hashes[j]
        bits = sum((difference >> np.uint64(bit)) & np.uint64(1) for bit in range(40, 60))
        agree = bits <= threshold if n > 1 else np.zeros(0, bool)
        assert found["pairs"] == agree.sum()
        assert found["pairs_across_splits"] == (agree & (splits[i] != splits[j])).sum()


def test_near_identical_queries_against_all_pairs():
    rng = np.random.default_rng(1)
    queries = []
    for _ in range(40):
        text = "".join(rng.choice(list("abc "), rng.integers(1, 40))).strip() or "x"
        for _ in range(3):
            letters = list(text)
            for place in rng.integers(0, len(letters), rng.integers(0, 5)):
                letters[place] = str(rng.choice(list("abcd")))
            queries.append("".join(letters).strip() or "y")
    plain = [" ".join(query.split()) for query in queries]
    label = list(range(len(plain)))
    for i, j in itertools.combinations(range(len(plain)), 2):
        if similar(plain[i], plain[j]):
            label = [label[i] if each == label[j] else each for each in label]
    expected = {}
    for i, each in enumerate(label):
        expected.setdefault(each, set()).add(f"t{i}")
    split = SimpleNamespace(topic_ids=[f"t{i}" for i in range(len(queries))], queries=queries)
    found = near_identical_queries(split)
    assert {frozenset(topic for topic, _ in group) for group in found} == {
        frozenset(group) for group in expected.values() if len(group) > 1
    }
    assert len(found) > 10 and [len(group) for group in found] == sorted(map(len, found), reverse=True)


def test_what_is_written_for_two_communities(clean, tmp_path, monkeypatch, capsys):
    other = Maker(tmp_path / "a_b & 50%")
    for split in SPLITS:
        other.add(split, f"{split}|1", topic="t|1", query="你好 | *x*", emotions='["开心"]')
    other.write()
    clean.write()
    monkeypatch.chdir(tmp_path)
    statistics.main(["memes", "a_b & 50%", "--out", "out"])
    printed = capsys.readouterr().out
    assert max(map(display_width, printed.splitlines())) <= 100
    report = json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))
    frame = pd.concat([pd.read_csv(tmp_path / "memes" / f"{name}.csv") for name in SPLITS])
    assert report["communities"]["memes"]["total"]["records"] == len(frame)
    assert report["all"]["total"]["records"] == len(frame) + 3
    assert report["communities"]["a_b & 50%"]["language"] == "zh"  # by its letters
    assert not names_with_spaces(report["communities"]["memes"])
    table = (tmp_path / "out" / "statistics.tex").read_text(encoding="utf-8")
    assert r"a\_b \& 50\% & zh & 1 & 3 & 3 & 1 & 1 & 1 \\" in table
    assert r"memes & -- & 1 & 9 & 9 & 3 & 3 & 3 \\" in table
    assert table.index(r"\midrule" + "\nall") > table.index("memes &")
    page = (tmp_path / "out" / "statistics.md").read_text(encoding="utf-8")
    assert r"a\_b & 50%" in page and "t|1" not in page and "开心" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)
    assert (tmp_path / "out" / "image_facts_memes.csv").read_text(encoding="utf-8").count("\n") == 1 + 9
    assert not list((tmp_path / "out").glob(".*"))


def test_csvs_that_lie_elsewhere_and_a_missing_split(clean, tmp_path):
    clean.rows["test"].append(clean.rows["test"][0] | {"topic_id": "t9", "query": "nine"})
    folder = clean.write()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "test.csv").rename(elsewhere / "t.csv")
    (folder / "val.csv").unlink()
    (folder / "images").rename(elsewhere / "pictures")
    statistics.main([str(folder), "--out", str(tmp_path / "out"), "--test_csv", str(elsewhere / "t.csv"),
                     "--features_path", str(elsewhere / "pictures")])  # fmt: skip
    report = json.loads((tmp_path / "out" / "statistics.json").read_text(encoding="utf-8"))["communities"]["memes"]
    assert {name: part["records"] for name, part in report["splits"].items()} == {"train": 3, "test": 4}


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ([], 2, "give folders of communities, or --agreement"),
        (["memes", "--agreement", "a.jsonl", "b.jsonl"], 2, "give folders of communities, or --agreement"),
        (["memes", "other", "--features_path", "x"], 2, "--features_path is for one community"),
        (["--agreement", "a.jsonl", "b.jsonl", "--strict"], 2, "--strict does nothing with --agreement"),
        (["memes", "--emotion_table", "x.csv"], 2, "--emotion_table goes with --agreement only"),
        (["memes", "--max_words", "1"], 2, "--max_words: found 1, expected 2 or more"),
        (["memes", "sub/memes"], 1, "a second folder called 'memes'"),
        (["nothing"], 1, "nothing: found no train.csv, val.csv or test.csv"),
        (["memes", "--features_path", "nothing"], 1, "nothing: no such folder of images"),
        (["memes", "--test_csv", "nothing.csv"], 1, "nothing.csv: found no readable file"),
        (["bad"], 1, "bad/train.csv, line 1, header"),
    ],
)
def test_bad_input(clean, tmp_path, monkeypatch, capsys, arguments, code, expected):
    clean.write()
    (tmp_path / "bad" / "images").mkdir(parents=True)
    (tmp_path / "bad" / "train.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        statistics.main([*arguments, "--out", "out"])
    message = error.value.code if isinstance(error.value.code, str) else capsys.readouterr().err
    assert (1 if isinstance(error.value.code, str) else error.value.code) == code
    assert expected in message


def test_out_that_is_a_file(clean, tmp_path):
    clean.write()
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match="--out .* cannot be made"):
        statistics.main([str(clean.folder), "--out", str(tmp_path / "out")])


def test_the_exit_codes_of_the_process(clean, tmp_path):
    clean.add("test", "a").write()
    for flags, code in ((["--strict"], 1), (["--help"], 0), (["--no_such_flag"], 2)):
        command = [
            sys.executable,
            "-m",
            "preprocess.statistics",
            str(clean.folder),
            "--out",
            str(tmp_path / "o"),
            *flags,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_package_gives_the_line_to_install_it(clean, tmp_path, monkeypatch):
    clean.write()
    monkeypatch.setattr(statistics.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(SystemExit, match="needs matplotlib: pip install -r requirements-data.txt"):
        statistics.main([str(clean.folder), "--out", str(tmp_path / "out")])


def test_latex():
    assert latex(r"a&b%c$d#e_f{g}~^\ –") == (
        r"a\&b\%c\$d\#e\_f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{} --"
    )
    rows = latex_table([["community", "language", "topics"], ["a", "b", "1"]]).splitlines()
    assert rows == [r"% \usepackage{booktabs}", r"\begin{tabular}{llr}", r"\toprule",
                    r"community & language & topics \\", r"\midrule", r"a & b & 1 \\", r"\bottomrule",
                    r"\end{tabular}"]  # fmt: skip


def test_tables_of_text():
    assert aligned([["", "n"], ["一二", "10"], ["a", "9"]]) == "       n\n一二  10\na      9"
    assert markdown("a|b\nc*") == r"a\|b c\*"
    lines = wrapped("  " + "word " * 60).splitlines()
    assert lines[0].startswith("  word") and lines[1].startswith("  word") and max(map(len, lines)) <= 100
    assert max(map(display_width, wrapped("表情 " * 60).splitlines())) <= 100
