"""preprocess.describe: mlcroissant reads what it writes, the card is what was measured, a check finds each change."""

import csv
import hashlib
import json
import re
import shlex
import shutil

import mlcroissant
import numpy as np
import pytest
from PIL import Image

from preprocess import build_community, describe, imgflip, memecap
from preprocess.describing.questions import QUESTIONS
from preprocess.describing.rebuild import rebuild_of
from tests.preprocess.build_inputs import Built, Inputs, read_csv, write_picture

SPLITS = ("train", "val", "test")
ANSWERS = {key: f"answer to {key}" for key in QUESTIONS} | {
    "published": "2026-01-31",
    "version": "1.0.0",
    "license": "https://creativecommons.org/licenses/by/4.0/",
    "url": "https://example.org/memes",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What a community of 20 memes is built from: pictures in two folders, odd texts, `mine` built of it."""
    inputs = Inputs(tmp_path_factory.mktemp("describe"))
    for n in range(20):
        text = f'she said "no",\nand {n} 猫 {"x" * n}'
        inputs.meme(f"{'ab'[n % 2]}/m{n}.png", ["t1", "t2"][: 1 + n % 2], seed=n, text=text, captions=[f"shows {n}"])
    inputs.build("mine", "--split", "0.6", "0.2", "0.2", "--seed", "3")
    return inputs


@pytest.fixture(scope="module")
def published(inputs):
    """The community described with all questions answered, and with its pictures."""
    (inputs.folder / "answers.json").write_text(json.dumps(ANSWERS), encoding="utf-8")
    described(inputs.folder / "mine", "--out", inputs.folder / "published", "--answers", inputs.folder / "answers.json")
    return inputs.folder / "published"


def described(*arguments):
    describe.main([str(argument) for argument in arguments])


def error_of(*arguments):
    """The message with which the program ends."""
    with pytest.raises(SystemExit) as error:
        described(*arguments)
    return error.value.code


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_text(records):
    """Records of mlcroissant, which has bytes for texts: {column: text}."""
    return [
        {key.split("/")[1]: value.decode() if isinstance(value, bytes) else value for key, value in record.items()}
        for record in records
    ]


def test_mlcroissant_finds_nothing_wrong_and_reads_the_records_by_split(published):
    dataset = mlcroissant.Dataset(published / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors and not dataset.metadata.ctx.issues.warnings
    assert json.loads((published / "croissant.json").read_text(encoding="utf-8"))["conformsTo"] == [
        "http://mlcommons.org/croissant/1.1",
        "http://mlcommons.org/croissant/RAI/1.0",
    ]
    found = as_text(dataset.records("records"))
    expected = [row | {"split": split} for split in SPLITS for row in read_csv(published / f"{split}.csv")]
    assert sorted(found, key=str) == sorted(({"split": row["split"]} | row for row in expected), key=str)
    dataset = mlcroissant.Dataset(published / "croissant.json")
    val = as_text(dataset.records("records", filters={"records/split": "val"}))
    assert {row["split"] for row in val} == {"val"} and len(val) == len(read_csv(published / "val.csv"))


def test_mlcroissant_reads_the_pictures_and_their_checksums(published):
    dataset = mlcroissant.Dataset(published / "croissant.json")
    pictures = {row["image"]: row["content"] for row in as_text(dataset.records("pictures"))}
    rows = as_text(dataset.records("images"))
    used = {row["image"] for split in SPLITS for row in read_csv(published / f"{split}.csv")}
    assert pictures.keys() == {row["image"] for row in rows} == used
    for row in rows:
        path = published / "images" / row["image"]
        assert sha256(path) == row["sha256"]
        assert (int(row["width"]), int(row["height"])) == (64, 64)
        assert np.array_equal(pictures[row["image"]], Image.open(path).convert("RGB"))


def test_answers_are_in_both_files_and_no_question_is_left(published):
    value = json.loads((published / "croissant.json").read_text(encoding="utf-8"))
    card = (published / "README.md").read_text(encoding="utf-8")
    assert "Open questions" not in card
    for key, answer in ANSWERS.items():
        found = value[QUESTIONS[key].property]
        assert (found["name"] if key == "creator" else found) == answer
        assert f"**{QUESTIONS[key].text}**\n\n{answer}\n" in card
    metadata = mlcroissant.Dataset(published / "croissant.json").metadata
    assert metadata.data_biases == [ANSWERS["offence"]] and metadata.creators[0].name == ANSWERS["creator"]


def test_without_answers_all_questions_are_listed_and_nothing_is_made_up(inputs, tmp_path, capsys):
    for flags in (["--without_images"], []):  # the second call replaces what the first one wrote
        described(inputs.folder / "mine", "--out", tmp_path / "out", *flags)
        assert (tmp_path / "out" / "images").is_dir() == (not flags)
    printed = capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"{len(QUESTIONS)} questions are open" in printed
    assert re.findall(r"^- `(\w+)`: ", card, re.MULTILINE) == list(QUESTIONS)
    metadata = mlcroissant.Dataset(tmp_path / "out" / "croissant.json").metadata
    assert not metadata.ctx.issues.errors
    assert (metadata.license, metadata.url, metadata.creators, metadata.date_published) == (None, None, [], None)


def test_the_card_has_what_the_files_hold(inputs, published):
    built = Built(inputs.folder / "mine")
    card = (published / "README.md").read_text(encoding="utf-8")
    sizes = [len(built.rows[split]) for split in SPLITS]
    memes = [len({row["image_id"] for row in built.rows[split]}) for split in SPLITS]
    assert f"| records | {' | '.join(map(str, [*sizes, sum(sizes)]))} |" in card
    assert f"| memes | {' | '.join(map(str, [*memes, 20]))} |" in card
    assert str(inputs.folder) not in card, "no path of this machine"
    assert str(inputs.folder) not in (published / "croissant.json").read_text(encoding="utf-8")


def test_without_images_the_command_in_the_card_makes_the_same_folder(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    described(inputs.folder / "mine", "--out", out, "--without_images")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "croissant.json", "images.csv", *(f"{split}.csv" for split in SPLITS)]
    )
    dataset = mlcroissant.Dataset(out / "croissant.json")
    assert len(list(dataset.records("records"))) == 30
    card = (out / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^python -m preprocess\.build_community (.*)$", card, re.MULTILINE)
    paths = {
        "RECORDS": inputs.folder / "records.csv",
        "ANNOTATIONS": inputs.folder / "annotations.jsonl",
        "IMAGES": inputs.images,
        "FOLDER": tmp_path / "again",
    }
    build_community.main([str(paths.get(word, word)) for word in shlex.split(command)])
    capsys.readouterr()
    described(tmp_path / "again", "--check", out)
    assert "is the same as" in capsys.readouterr().out


CHANGES = {
    "another picture": (
        lambda folder: write_picture(folder / "images/b/m1.png", 77),
        r"other bytes: 1 \(b/m1.png\); 0 of",
    ),
    "the same picture in other bytes": (
        lambda folder: write_picture(folder / "images/b/m1.png", 1, mark=3),
        r"other bytes: 1 \(b/m1.png\); 1 of them look the same",
    ),
    "a picture less": (
        lambda folder: (folder / "images/a/m0.png").unlink(),
        r"not here or cannot be read: 1 \(a/m0.png\)",
    ),
    "a record less": (
        lambda folder: rewrite(folder / "train.csv", lambda rows: rows[:-1]),
        "train.csv: 0 rows are only here, 1 only in the published",
    ),
    "another order": (
        lambda folder: rewrite(folder / "val.csv", lambda rows: rows[:1] + rows[:0:-1]),
        "val.csv: the same rows in another order",
    ),
    "no val": (lambda folder: (folder / "val.csv").unlink(), "val.csv: there is none here"),
}


def rewrite(path, change):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(change(rows))


@pytest.mark.parametrize("change", CHANGES)
def test_a_check_names_each_change(inputs, published, tmp_path, change):
    shutil.copytree(inputs.folder / "mine", tmp_path / "mine")
    spoil, expected = CHANGES[change]
    spoil(tmp_path / "mine")
    message = error_of(tmp_path / "mine", "--check", published)
    assert re.search(expected, message) and len(message.splitlines()) == 2


def test_a_published_folder_that_was_changed_is_no_measure(inputs, published, tmp_path):
    shutil.copytree(published, tmp_path / "published")
    rewrite(tmp_path / "published" / "val.csv", lambda rows: rows[:-1])
    assert "val.csv: found the SHA-256" in error_of(inputs.folder / "mine", "--check", tmp_path / "published")


ARGUMENTS = {
    "imgflip.json": (
        imgflip,
        {"kind": "titles", "limit": None, "max_templates": 7, "all_templates": True, "seed": 0, "size": 200},
        {"version": 1, "OpenCV": 5, "data": "30ff"},
    ),
    "memecap.json": (
        memecap,
        {"query": "title", "ocr": True, "emotions": "faces", "split": [0.5, 0.25, 0.25], "seed": 4},
        {"version": 1, "data": "30ff"},
    ),
}


@pytest.mark.parametrize("manifest", ARGUMENTS)
def test_the_command_has_the_arguments_that_the_folder_was_made_with(tmp_path, manifest):
    program, arguments, versions = ARGUMENTS[manifest]
    (tmp_path / manifest).write_text(json.dumps({"arguments": arguments | versions}), encoding="utf-8")
    rebuild = rebuild_of(tmp_path)
    assert rebuild.versions == versions
    clone, command = rebuild.command.splitlines()
    assert clone.startswith("git clone https://github.com/") and clone.endswith(" SOURCE")
    python, dash_m, module, *flags = shlex.split(command)
    assert (python, dash_m, module) == ("python", "-m", program.__name__)
    read = vars(program.to_arguments(flags))
    assert {key: read[key] for key in arguments if key != "ocr"} == {k: v for k, v in arguments.items() if k != "ocr"}
    assert {str(value) for value in read.values()} >= set(rebuild.inputs) >= {"SOURCE", "FOLDER"}


BAD = {
    "nothing asked": ([], 2),
    "both": (["--out", "out", "--check", "published"], 2),
    "a flag without effect": (["--check", "published", "--without_images"], 2),
    "the community itself": (["--out", "mine"], "choose another folder"),
    "a folder of others": (["--out", "images"], "was not made by this program"),
    "an unknown question": (["--out", "out", "--answers", "unknown.json"], "found the key 'colour', expected some of"),
    "no date": (["--out", "out", "--answers", "date.json"], "expected a date as 2026-01-31"),
    "no text": (["--out", "out", "--answers", "number.json"], "found 3, expected a text"),
    "nothing published": (["--check", "images"], "found no such file, expected the croissant.json of a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(inputs, published, monkeypatch, case):
    monkeypatch.chdir(inputs.folder)
    for name, answers in (("unknown", {"colour": "red"}), ("date", {"published": "1/2"}), ("number", {"url": 3})):
        (inputs.folder / f"{name}.json").write_text(json.dumps(answers), encoding="utf-8")
    flags, expected = BAD[case]
    message = error_of("mine", *flags)
    assert message == expected if isinstance(expected, int) else expected in message
    assert not (inputs.folder / "out").exists()


def test_pictures_that_cannot_be_had(inputs, tmp_path):
    shutil.copytree(inputs.folder / "mine", tmp_path / "mine")
    (tmp_path / "mine" / "build.json").unlink()
    assert "expected --rebuild" in error_of(tmp_path / "mine", "--out", tmp_path / "out", "--without_images")
    (tmp_path / "mine" / "images" / "a" / "m0.png").write_bytes(b"no picture")
    assert "1 images cannot be read" in error_of(tmp_path / "mine", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
