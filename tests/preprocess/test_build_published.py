"""The layout of earlier public code: which file is which, the published split, relevance, errors."""

import csv
import hashlib
import io
import json
import shutil
import time

import numpy as np
import pytest

from preprocess import build_community
from preprocess.building import published_entries, published_files
from preprocess.building.published_entries import Entries
from preprocess.building.published_files import read_json
from preprocess.building.published_matrix import read_matrix
from tests.preprocess.build_inputs import SPLITS, Built, write_csv, write_picture
from util import InputError


class Published:
    """A folder in that layout: `train` images with two topics' queries, `test` ones with their own."""

    def __init__(self, folder, train=20, test=6, number=str):
        self.folder = folder
        self.images = folder / "images"
        self.out = folder.parent / "out"
        self.train = [number(100 + n) for n in range(train)]
        self.test = [number(200 + n) for n in range(test)]
        for n, image_id in enumerate(self.train + self.test):
            write_picture(self.images / f"{image_id}.png", seed=n)
        self.sentences = [{"image_id": image_id, "caption": f"query {n % 2}"} for n, image_id in enumerate(self.train)]
        self.titles = {str(image_id): [f"caption of {image_id}", "one more"] for image_id in self.train}
        self.test_entries = {
            str(image_id): {"gt": f"query {n % 3}", "titles": [f"test caption of {image_id}"]}
            for n, image_id in enumerate(self.test)
        }
        self.emotions = [
            {"image_id": image_id, "emotion": [{"person1": "Happy"}, {"person2": "joyful"}]} for image_id in self.train
        ]
        self.ids = list(self.train)
        self.matrix = None

    def write(self):
        write_csv(self.folder / "train_id_9k.csv", [{"image_id": image_id} for image_id in self.ids], ["image_id"])
        write_json(self.folder / "data.json", {"sentences": self.sentences, "titles": self.titles})
        write_json(self.folder / "json" / "queries.json", self.test_entries)
        write_json(self.folder / "emotion_train.json", self.emotions)
        write_json(self.folder / "emotion_test.json", [{"image_id": self.test[0], "emotion": [{"person1": "sad"}]}])
        if self.matrix is not None:
            np.savetxt(self.folder / "similarity_matrix.csv", self.matrix, fmt="%d", delimiter=",")

    def build(self, *more):
        self.write()
        return self.run(*more)

    def run(self, *more):
        build_community.main(["--from_json", str(self.folder), "--out", str(self.out), *more])
        return Built(self.out)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path / "published")


def topic_of(query):
    return "t" + hashlib.sha256(query.encode()).hexdigest()[:16]


# The layout


@pytest.mark.parametrize("number", [str, int])
def test_the_published_split_stays_and_val_is_carved_from_train(tmp_path, capsys, number):
    published = Published(tmp_path / "published", number=number)
    built = published.build("--split", "0.6", "0.2", "0.2")
    assert not built.dropped
    assert sorted(row["image"] for row in built.rows["test"]) == [
        f"images/{image_id}.png" for image_id in published.test
    ]
    assert [len(built.rows[name]) for name in SPLITS] == [15, 5, 6]  # val: 0.2 of 0.8 of the 20
    train = built.rows["train"] + built.rows["val"]
    assert sorted(row["image_id"] for row in train) == [str(image_id) for image_id in published.train]
    for row in train:
        n = int(row["image_id"]) - 100
        assert (row["query"], row["topic_id"]) == (f"query {n % 2}", topic_of(f"query {n % 2}"))
        assert json.loads(row["captions"]) == [f"caption of {row['image_id']}", "one more"]
        assert json.loads(row["emotions"]) == {"person1": "happy", "person2": "happy"}
        assert row["text"] == ""
    for row in built.rows["test"]:
        n = int(row["image_id"]) - 200
        assert row["query"] == f"query {n % 3}"
        assert json.loads(row["captions"]) == [f"test caption of {row['image_id']}"]
        assert json.loads(row["emotions"]) == ({"person1": "sad"} if n == 0 else {})
    built.load()
    printed = capsys.readouterr().out
    assert "Read: train_id_9k.csv, data.json, json/queries.json, emotion_test.json, emotion_train.json." in printed
    assert "Emotions: an entry for 21 of 26 images." in printed
    assert "captions within 10%" in printed
    assert "23.1%" in printed and "57.7%" in printed and "19.2%" in printed  # 6, 15 and 5 of 26


def test_val_respects_the_groups(published):
    for n in range(0, 20, 4):  # five groups of four
        for k in range(1, 4):
            write_picture(published.images / f"{100 + n + k}.png", seed=n, mark=k)
            published.titles[str(100 + n + k)] = published.titles[str(100 + n)]
    built = published.build("--split", "0.6", "0.2", "0.2")
    split_of = built.split_of()
    for n in range(100, 120, 4):
        assert len(set.union(*(split_of[str(n + k)] for k in range(4)))) == 1
    assert [len(built.rows[name]) for name in SPLITS] == [16, 4, 6]


def test_by_topic_val_has_topics_of_its_own(published):
    for n, sentence in enumerate(published.sentences):
        sentence["caption"] = f"query {n // 2}"
    built = published.build("--split_by", "topic", "--split", "0.6", "0.2", "0.2")
    topics = {name: {row["topic_id"] for row in built.rows[name]} for name in SPLITS}
    assert not topics["train"] & topics["val"] and len(topics["val"]) in (2, 3)


def test_frames_in_folders(published, capsys):
    for image_id in published.train[:3]:
        folder = published.images / image_id
        write_picture(folder / "img_00002.png", seed=900 + int(image_id))
        shutil.move(published.images / f"{image_id}.png", folder / "img_00001.png")
    (published.images / published.train[0] / "img_00002.png").unlink()
    built = published.build()
    images = {row["image_id"]: row["image"] for row in built.all_rows()}
    assert images["101"] == "images/101/img_00001.png" and images["103"] == "images/103.png"
    assert (built.folder / "images" / images["102"]).is_file()
    assert "2 images are folders of several frames" in capsys.readouterr().out


def test_images_may_be_elsewhere(published, tmp_path):
    shutil.move(published.images, tmp_path / "elsewhere")
    published.write()
    built = published.run("--images", str(tmp_path / "elsewhere"), "--images_as", "none")
    assert {row["image"] for row in built.rows["test"]} == {f"{image_id}.png" for image_id in published.test}
    built.load(images=tmp_path / "elsewhere")


def test_what_is_dropped_is_listed(published, capsys):
    published.sentences += [
        {"image_id": "200", "caption": "query 0"},  # [20] not in the train CSV
        {"image_id": "100", "caption": " "},  # [21]
        {"image_id": "100", "caption": "query 0"},  # [22] again
        {"image_id": "101", "caption": "query 5"},  # another topic
    ]
    published.ids += ["300", "100"]  # without a sentence, and once more
    (published.images / "119.png").unlink()
    (published.images / "118.png").write_bytes(b"no image")
    del published.titles["117"]
    published.titles["116"] = ["", "kept ", " "]
    built = published.build()
    found = {(row["entry"], row["image"]): row["reason"] for row in built.dropped}
    missing = found.pop(("data.json, sentences[18]", "images/118.png"))
    assert missing.startswith("image missing or unreadable: ")
    assert found == {
        ("data.json, sentences[20]", "200"): "not in the train CSV: train_id_9k.csv",
        ("data.json, sentences[21]", "100"): "the query is empty",
        ("data.json, sentences[22]", "images/100.png"): "repeated: this topic has this meme in data.json, sentences[0]"
        " already (images/100.png)",
        ("data.json, sentences[19]", "119"): f"no image file: none in {published.folder} has this name",
        ("data.json, sentences[17]", "images/117.png"): "no caption: other memes have captions",
        ("train_id_9k.csv, line 22", "300"): "no query: data.json has no sentence for it",
    }
    rows = built.rows["train"] + built.rows["val"]
    assert {row["topic_id"] for row in rows if row["image_id"] == "101"} == {topic_of("query 1"), topic_of("query 5")}
    assert {row["captions"] for row in rows if row["image_id"] == "116"} == {'["kept "]'}
    assert len(rows) == 20 + 4 - 3 - 3  # sentences, less three above, less those without an image or a caption
    assert "Records dropped: 7" in capsys.readouterr().out


def test_near_duplicates_of_test_memes_leave_train(published, capsys):
    shutil.copy(published.images / "200.png", published.images / "100.png")  # the same bytes
    write_picture(published.images / "101.png", seed=21, mark=3)  # 201, nearly
    published.titles["101"] = published.test_entries["201"]["titles"]
    write_picture(published.images / "102.png", seed=22, mark=3)  # 202's picture, another caption
    published.titles["102"] = ["something else altogether"]
    write_picture(published.images / "203.png", seed=24, mark=2)  # two test memes, nearly the same
    published.test_entries["203"]["titles"] = published.test_entries["204"]["titles"]
    published.sentences.append({"image_id": "205", "caption": "query 1"})  # the same image in train and test
    published.ids.append("205")
    published.titles["205"] = ["another caption"]
    built = published.build()
    assert sorted(row["image_id"] for row in built.rows["test"]) == published.test
    assert [(row["image"], row["reason"]) for row in built.dropped] == [
        ("images/100.png", "near-duplicate of a test meme: images/200.png"),
        ("images/101.png", "near-duplicate of a test meme: images/201.png"),
        ("images/205.png", "near-duplicate of a test meme: images/205.png"),
    ]
    assert built.split_of()["102"] & {"train", "val"}
    assert {row["captions"] for row in built.rows["test"] if row["image_id"] == "205"} == {'["test caption of 205"]'}
    assert "3  near-duplicate of a test meme" in capsys.readouterr().out
    built.load()
    shutil.rmtree(published.out)
    templates = published.run("--split_by", "template")
    assert ("images/102.png", "of the template of a test meme: images/202.png") in [
        (row["image"], row["reason"]) for row in templates.dropped
    ]
    shutil.rmtree(published.out)
    merged = published.run("--near_duplicates", "merge")
    assert {row["image_id"] for row in merged.rows["test"]} == set(published.test) - {"204"}


# The matrix


def csv_text(rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


MATRIX = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]])
IDS = ["7", "8", "b, c", "9"]
SHAPES = {
    "bare": csv_text(MATRIX.tolist()),
    "header": csv_text([[0, 1, 2, 3], *MATRIX.tolist()]),
    "header of ids": csv_text([IDS, *MATRIX.tolist()]),
    "index": csv_text([[n, *row] for n, row in enumerate(MATRIX.tolist())]),
    "both": csv_text([["", *IDS], *([n, *row] for n, row in zip(IDS, MATRIX.tolist(), strict=True))]),
    "short header": csv_text([IDS, *([n, *row] for n, row in zip(IDS, MATRIX.tolist(), strict=True))]),
    "floats": csv_text(MATRIX.astype(float).tolist()) + "\n",
    "spaces": "\n".join(" ".join(f"{value:.18e}" for value in row) for row in MATRIX),
    "BOM": "\ufeff" + csv_text(MATRIX.tolist()).replace("\r\n", "\n"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_a_matrix(tmp_path, shape):
    path = tmp_path / "m.csv"
    path.write_text(SHAPES[shape], encoding="utf-8")
    assert read_matrix(path, IDS) == [np.flatnonzero(row).tolist() for row in MATRIX]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (csv_text(MATRIX[:2].tolist()), "found 2 lines of 4 fields, expected 4 x 4 as the test JSON has 4 images"),
        (csv_text(MATRIX[:, :3].tolist()), "found 4 lines of 3 fields"),
        (csv_text([[1, 0, 0, 0], [0, 1, 0], [0] * 4, [0] * 4]), "found 4 lines of 3 or 4 fields"),
        (csv_text([[1, 0, 0, 0], [0, 2, 0, 0], [0] * 4, [0] * 4]), "line 2: found '2', expected 4 cells of 0 or 1"),
        (csv_text([[1, 0, 0, 0], [0, "x", 0, 0], [0] * 4, [0] * 4]), "line 2: found 'x', expected"),
        (csv_text([["8", "7", "b, c", "9"], *MATRIX.tolist()]), "line 1: found image '8' in place 1, expected '7'"),
        (
            csv_text([[n, *row] for n, row in zip([*IDS[:2], "9", "b, c"], MATRIX.tolist(), strict=True)]),
            "first column: found image '9' in place 3, expected 'b, c': the order of the test JSON",
        ),
        ("", "found 0 lines"),
    ],
)
def test_a_matrix_that_does_not_fit(tmp_path, text, message):
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_matrix(path, IDS)


@pytest.mark.parametrize("line", ["1;0;0;0;0;0", "True,False,False,False,False,False", "2,0,0,0,0,0"])
def test_a_matrix_by_its_name_is_never_passed_over(published, capsys, line):
    published.write()
    (published.folder / "similarity_matrix.csv").write_text(f"{line}\n" * 6)
    with pytest.raises(SystemExit, match="similarity_matrix.csv.*expected 6"):
        build_community.main(["--from_json", str(published.folder), "--out", str(published.folder / "out")])


def test_the_matrix_says_what_is_relevant(published, capsys):
    rng = np.random.default_rng(0)
    published.matrix = ((rng.random((6, 6)) < 0.3) | np.eye(6, dtype=bool)).astype(int)
    published.matrix[5] = 0  # no image is relevant for the last image's own query, by this row
    published.matrix[:, 4] = 0  # this image is relevant for nothing
    built = published.build()
    expected = set()
    for row in range(6):  # queries 0, 1, 2, 0, 1, 2
        for column in range(6):
            if published.matrix[row, column]:
                expected.add((topic_of(f"query {row % 3}"), str(200 + column)))
    found = [(row["topic_id"], row["image_id"]) for row in built.rows["test"]]
    assert set(found) == expected and len(found) == len(expected)
    listed = [(row["entry"], row["image"], row["reason"].split(":")[0]) for row in built.dropped]
    own = [(str(200 + n), topic_of(f"query {n % 3}")) for n in range(6)]
    assert listed == [
        (f"queries.json, '{image_id}'", image_id, "not relevant by the matrix")
        for image_id, topic in own
        if (topic, image_id) not in expected
    ]
    assert any(image == "204" for _, image, _ in listed)
    relevance = built.load()["test"]
    assert len(relevance) == len(expected)
    assert "similarity_matrix.csv" in capsys.readouterr().out


# Which file is which


def test_files_are_told_by_what_is_in_them(published, capsys):
    published.matrix = np.eye(6, dtype=int)
    published.write()
    for old, new in (
        ("data.json", "a/x1.json"),
        ("json/queries.json", "b/x2.JSON"),
        ("emotion_train.json", "x3.json"),
        ("emotion_test.json", "x4.json"),
        ("train_id_9k.csv", "x5.csv"),
        ("similarity_matrix.csv", "c/x6.csv"),
    ):
        (published.folder / new).parent.mkdir(exist_ok=True)
        shutil.move(published.folder / old, published.folder / new)
    write_json(published.folder / "other.json", {"some": "thing"})
    (published.folder / "labels.csv").write_text("id,label\n1,cat\n")
    built = published.run()
    assert len(built.all_rows()) == 26
    printed = capsys.readouterr().out
    assert "Read: x5.csv, a/x1.json, b/x2.JSON, c/x6.csv, x3.json, x4.json." in printed
    assert "Not used: labels.csv, other.json." in printed


def test_names_decide_between_several(published, capsys):
    published.write()
    (published.folder / "test_id.csv").write_text("image_id\n200\n")
    shutil.copy(published.folder / "data.json", published.folder / "train.json")
    assert len(published.run().all_rows()) == 26
    assert "Not used: data.json, test_id.csv." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("copy", "message"),
    [
        (("train_id_9k.csv", "train_id_7k.csv"), "train_id_7k.csv, .*train_id_9k.csv, expected a CSV with the column"),
        (("data.json", "data2.json"), "data.json, .*data2.json, expected a JSON file .*sentences.* once"),
        (("json/queries.json", "more.json"), "json/queries.json, .*more.json, expected a JSON file .*gt.* once"),
        (("images/100.png", "images/100.jpg"), "image_id '100': found .*100.jpg, .*100.png, expected one image file"),
        (("images/100.png", "images/100/img_00001.png"), "image_id '100': found .*100.png, .*img_00001.png, expected"),
    ],
)
def test_ambiguity_is_an_error_that_names_the_files(published, copy, message):
    published.write()
    (published.folder / copy[1]).parent.mkdir(exist_ok=True)
    shutil.copy(published.folder / copy[0], published.folder / copy[1])
    with pytest.raises(SystemExit, match=message):
        published.run()
    assert not published.out.exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train_id_9k.csv", "found no CSV with the column image_id"),
        ("data.json", 'found no JSON file {"sentences"'),
        ("json/queries.json", "found no JSON file {image_id"),
        ("images", "published: found no image"),
    ],
)
def test_a_missing_file_is_an_error(published, missing, message):
    published.write()
    path = published.folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit, match=message):
        published.run()
    with pytest.raises(SystemExit, match="nowhere: found no such folder, expected one with the published files"):
        build_community.main(["--from_json", "nowhere", "--out", str(published.out)])


def test_no_image_of_any_id_is_an_error(published):
    published.write()
    shutil.rmtree(published.images)
    write_picture(published.images / "x.png", seed=1)
    with pytest.raises(SystemExit, match="found no image of an image_id, expected such as 100.jpg or 100/"):
        published.run()


# Bad entries


def test_all_bad_entries_are_reported_together(published):
    published.sentences += [
        {"image_id": "100"},  # [20]
        "text",
        {"image_id": True, "caption": "q"},
        {"image_id": 1.5, "caption": "q"},
        {"image_id": "", "caption": "q"},
        {"image_id": "100", "caption": None},
        {"image_id": "100", "caption": "half \ud83d"},  # [26]
        {"image_id": "100", "caption": "nul \0"},
    ]
    published.titles["100"] = ["fine", "half \ude00"]
    published.titles["101"] = ["fine", 3]
    published.titles["102"] = {"a": "b"}
    published.test_entries["200"] = {"gt": 5, "titles": []}
    published.test_entries["201"] = {"gt": "q"}
    published.emotions[0]["emotion"] = [{"person1": "happy"}, {}]
    published.emotions[1]["emotion"] = [["happy"]]
    published.emotions.append({"image_id": "103", "emotion": ["sad"]})
    with pytest.raises(SystemExit) as error:
        published.build()
    lines = str(error.value).splitlines()
    assert lines[0] == "error: 16 bad entries:"
    for where, what in (
        ("queries.json, '200', 'gt'", "found '5', expected a text"),
        ("queries.json, '201'", "expected an object with 'gt' and 'titles'"),
        ("data.json, titles['100']", "element 2 holds half of a character"),
        ("data.json, titles['101']", "element 2 is not a text"),
        ("data.json, titles['102']", "expected a list of captions"),
        ("data.json, sentences[20]", "expected an object with 'image_id' and 'caption'"),
        ("data.json, sentences[21]", "expected an object with 'image_id' and 'caption'"),
        ("data.json, sentences[22], 'image_id'", "found 'true', expected an image_id: a text or a whole number"),
        ("data.json, sentences[23], 'image_id'", "found '1.5', expected an image_id"),
        ("data.json, sentences[24], 'image_id'", "expected an id that is not empty"),
        ("data.json, sentences[25], 'caption'", "found 'null', expected a text"),
        ("data.json, sentences[26], 'caption'", "halves of a character"),
        ("data.json, sentences[27], 'caption'", "without NUL bytes"),
        ("emotion_train.json, [0], 'emotion'", "an object without a person"),
        ("emotion_train.json, [1], 'emotion'", "element 1 is not a text"),
        ("emotion_train.json, [20]", """found '["sad"]' for '103', expected '["happy", "joyful"]' as before"""),
    ):
        assert any(f"{where}: " in line and what in line for line in lines), where
    published.sentences += [{}] * 30
    with pytest.raises(SystemExit, match="error: 46 bad entries:\n(.*\n){20}  and 26 more$"):
        published.build()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.json", b"{", "data.json: found no valid JSON .*expected JSON"),
        (
            "data.json",
            b'{"sentences": 1, "titles": {}}',
            "found other types, expected 'sentences' to be a list",
        ),
        ("data.json", b'{"a": "\xff"}', "data.json: found bytes that are not UTF-8 at byte 7"),
        (
            "json/queries.json",
            b'{"1": {"gt": "a", "titles": []}, "1": {}}',
            "queries.json: .*'1' is twice",
        ),
        ("train_id_9k.csv", b"image_id,x\n,7\n", "train_id_9k.csv, line 2, column 'image_id'"),
        ("train_id_9k.csv", b"image_id,x\n7\n", "train_id_9k.csv, line 2, fields: found 1"),
    ],
)
def test_files_that_cannot_be_used(published, name, content, message):
    published.write()
    (published.folder / name).write_bytes(content)
    with pytest.raises(SystemExit, match=f"error: (.|\n)*{message}"):
        published.run()


def test_the_cost_of_a_file_is_in_proportion_to_its_size(tmp_path):
    """Of a hundred thousand names each was counted, to find the one that is there twice."""
    path, names = tmp_path / "test.json", 100_000
    path.write_text("{" + ", ".join(f'"{min(number, names - 2)}": 0' for number in range(names)) + "}")
    started = time.process_time()
    with pytest.raises(InputError, match="is twice in one object"):
        read_json(path)
    assert time.process_time() - started < 5


def test_what_contradicts_a_large_entry_does_not_each_cost_as_much(monkeypatch):
    quoted = []
    monkeypatch.setattr(published_entries, "shown", lambda value: quoted.append(1) or str(value)[:60])
    entries = Entries()
    large = {"image_id": "m1", "emotion": [{"person1": "happy"}] * 1000}
    entries.of_emotions([("a.json", [large, *[{"image_id": "m1", "emotion": "sad"}] * 5000])])
    assert len(entries.problems) == 5000 and len(quoted) <= 40


def test_a_csv_with_a_huge_field_is_not_the_matrix(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text(f"name,{'x' * 200_000}\na,b\n")
    assert published_files._kind_of_csv(path) is None
