"""records.csv and annotations.jsonl -> a community: what it holds, what it leaves out, what it says, its errors."""

import errno
import json
import os
import re
import shlex
import shutil
from collections import Counter, defaultdict

import imagehash
import numpy as np
import pytest
from PIL import Image

from engine.arguments import parse_arguments
from main_task_retrieval import main as train
from preprocess import build_community
from preprocess.annotation.without_captions import BY_IMAGE, BY_TEXT, flags_for
from preprocess.building import folder as build_csv
from preprocess.building import summary
from preprocess.building.meme_groups import template_groups
from preprocess.comparing.near_duplicates import DEFAULT_HASH_THRESHOLD, groups, near_duplicate_pairs
from tests.conftest import ROOT, names_with_spaces
from tests.preprocess.build_inputs import SPLITS, Inputs, annotation, slow_edit_distance, slow_groups

WORDS = [
    "when",
    "the",
    "deadline",
    "is",
    "tomorrow",
    "nobody",
    "has",
    "written",
    "a",
    "line",
    "of",
    "report",
    "yet",
    "coffee",
]


def random_inputs(folder, seed, pictures=45, topics=6):
    """Pictures with exact copies, near-duplicates and other texts on them, posted in random topics."""
    rng = np.random.default_rng(seed)
    inputs = Inputs(folder)

    def some_topics():
        return [f"t{t}" for t in rng.choice(topics, size=rng.choice([1, 1, 1, 2, 3]), replace=False)]

    for number in range(pictures):
        text = " ".join(rng.choice(WORDS, size=8)) + f" {number}"
        inputs.meme(f"a/{number}.png", some_topics(), seed=1000 * seed + number, text=text)
        kind = rng.choice(["alone", "copy", "near", "template"], p=[0.4, 0.2, 0.2, 0.2])
        if kind == "copy":
            (inputs.images / "b").mkdir(exist_ok=True)
            shutil.copy(inputs.images / f"a/{number}.png", inputs.images / f"b/{number}.png")
            inputs.post(f"b/{number}.png", some_topics())
        elif kind == "near":
            side = int(rng.choice([64, 72]))
            inputs.meme(f"c/{number}.png", some_topics(), 1000 * seed + number, side, mark=9, text=text.upper() + "!")
        elif kind == "template":
            other = " ".join(rng.choice(WORDS, size=7))
            inputs.meme(f"d/{number}.png", some_topics(), 1000 * seed + number, mark=5, text=other)
    rng.shuffle(inputs.rows)
    return inputs


def hashes(built, images):
    return {row["image"]: (imagehash.phash(Image.open(images / row["image"])), row["text"]) for row in built.all_rows()}


def nearly_same(facts, text_counts=True):
    """The definition, pair by pair: hashes by ImageHash, texts by a slow edit distance."""

    def agree(one, other):
        (hash_one, text_one), (hash_other, text_other) = facts[one], facts[other]
        texts = slow_edit_distance(text_one.casefold(), text_other.casefold()) <= 0.1
        return hash_one - hash_other <= DEFAULT_HASH_THRESHOLD and (texts or not text_counts)

    return agree


# What the community holds


@pytest.mark.parametrize(
    ("seed", "flags"),
    [
        (0, []),
        (1, ["--split_by", "topic", "--split", "0.5", "0.25", "0.25"]),
        (2, ["--split_by", "template", "--split", "0.6", "0.2", "0.2"]),
        (3, ["--near_duplicates", "merge", "--seed", "7"]),
        (4, ["--near_duplicates", "merge", "--split_by", "topic", "--template_groups", "--split", "0.4", "0.3", "0.3"]),
    ],
)
def test_invariants_of_random_communities(tmp_path, capsys, seed, flags):
    inputs = random_inputs(tmp_path, seed)
    built = inputs.build("out", *flags)
    built.load()
    # Every record is in one split, or listed.
    assert len(built.all_rows()) + len(built.dropped) == len(inputs.rows)
    dropped_lines = {int(row["line"]) for row in built.dropped}
    for row in built.dropped:
        source = inputs.rows[int(row["line"]) - 2]
        assert (row["image"], row["topic_id"]) == (source["image"], source["topic_id"])
        assert re.match("repeated: |in another split: ", row["reason"])
    # It holds what the image, or the one that stands for it, was annotated with.
    known = {row["sha256"]: row for row in inputs.annotations}
    for row in built.all_rows():
        assert (built.folder / "images" / row["image"]).stat().st_ino == (inputs.images / row["image"]).stat().st_ino
        source = known[annotation(inputs.images / row["image"])["sha256"]]
        assert json.loads(row["captions"]) == source["captions"] and row["text"] == source["text"]
        assert json.loads(row["emotions"]) == {"person1": "happy"}
        assert row["query"] == f"query of {row['topic_id']}"
    # Files with the same bytes are one meme, with the topics of all.
    contents = defaultdict(set)
    for row in built.all_rows():
        contents[(inputs.images / row["image"]).read_bytes()].add(row["image_id"])
    assert all(len(image_ids) == 1 for image_ids in contents.values())
    # Groups, by a slow formula over ImageHash's hashes.
    facts = hashes(built, inputs.images)
    by_image = {row["image"]: row["image_id"] for row in built.all_rows()}
    split_of = built.split_of()
    assert all(len(splits) == 1 for splits in split_of.values())
    near = slow_groups(facts, nearly_same(facts))
    if "merge" in flags:
        assert all(len(group) == 1 for group in near)
    groups_kept = slow_groups(facts, nearly_same(facts, not {"template", "--template_groups"} & set(flags)))
    for group in groups_kept:
        assert len(set.union(*(split_of[by_image[image]] for image in group))) == 1
    assert len(groups_kept) < len(facts) or "merge" in flags
    if "topic" in flags:
        splits_of_topics = defaultdict(set)
        for name in SPLITS:
            for row in built.rows[name]:
                splits_of_topics[row["topic_id"]].add(name)
        assert all(len(splits) == 1 for splits in splits_of_topics.values())
    else:
        pairs = {(row["topic_id"], contents_of(inputs, row)) for row in inputs.rows}
        if "merge" not in flags:
            assert len(built.all_rows()) == len(pairs)
        assert all("repeated" in row["reason"] for row in built.dropped)
        shares = np.array([len(built.rows[name]) for name in SPLITS]) / len(built.all_rows())
        wanted = np.array(built.manifest["arguments"]["split"])
        assert np.abs(shares - wanted).max() < 0.03
    # What is printed is what is there.
    printed = capsys.readouterr().out
    for name in SPLITS:
        rows = built.rows[name]
        numbers = [len({row[key] for row in rows}) for key in ("topic_id", "image_id")] + [len(rows)]
        assert re.search(rf"{name} +{numbers[0]} +{numbers[1]} +{numbers[2]} ", printed)
        assert list(built.manifest["counts"][name].values())[:3] == numbers
    assert f"Records dropped: {len(dropped_lines)}" in printed


def contents_of(inputs, row):
    return (inputs.images / row["image"]).read_bytes()


def test_the_counts_of_copies_and_groups(tmp_path, capsys):
    inputs = random_inputs(tmp_path, seed=11)
    built = inputs.build("out", "--images_as", "none")
    copies = len(list((inputs.images / "b").iterdir()))
    facts = hashes(built, inputs.images)
    near = [group for group in slow_groups(facts, nearly_same(facts)) if len(group) > 1]
    templates = [group for group in slow_groups(facts, nearly_same(facts, text_counts=False)) if len(group) > 1]
    assert len(near) >= 5 and len(templates) >= len(near) + 5 and copies >= 5
    counts = built.manifest["counts"]
    assert not names_with_spaces(counts)
    assert counts["exact_copies"] == copies == sum(map(len, built.manifest["merged"].values()))
    assert (counts["near_duplicate_groups"], counts["template_groups"]) == (len(near), len(templates))
    printed = capsys.readouterr().out
    assert f"merged: {copies}." in printed
    assert f"{len(near)} groups of {sum(map(len, near))} memes in all, each kept in one split" in printed
    assert f"{len(templates)} groups of {sum(map(len, templates))} memes in all, not kept together" in printed


@pytest.mark.parametrize("threshold", [0, 1, 6, 10])
def test_template_groups_are_the_components_of_all_pairs(threshold):
    rng = np.random.default_rng(threshold)
    hashes = rng.integers(0, 2**63, 40, dtype=np.uint64)[rng.integers(40, size=700)]
    for flips in range(1, 6):  # of up to 5 bits, fewer for most
        hashes[::flips] ^= np.uint64(1) << rng.integers(64, size=len(hashes[::flips]), dtype=np.uint64)
    expected = groups(len(hashes), near_duplicate_pairs(hashes, None, threshold))
    assert template_groups(hashes, threshold).tolist() == expected.tolist()
    assert 30 < expected.max() < 699


def test_every_topic_is_in_all_splits(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(120):
        inputs.meme(f"{number}.png", [f"t{number % 4}"], seed=number)
    built = inputs.build("out")
    for topic in range(4):
        sizes = [sum(row["topic_id"] == f"t{topic}" for row in built.rows[name]) for name in SPLITS]
        assert sizes == [24, 3, 3]
    printed = capsys.readouterr().out
    assert re.search(r"train +4 +96 +96 +80.0% +80.0% +80.0% to 80.0%", printed)
    assert "in all three splits: 4 of 4" in printed


def test_exact_copies_are_one_meme_with_the_topics_of_all(tmp_path):
    inputs = Inputs(tmp_path)
    for number in range(12):
        inputs.meme(f"{number}.png", ["t1", "t2"], seed=number)
    shutil.copy(inputs.images / "3.png", inputs.images / "copy.gif")
    inputs.rows.insert(0, {"image": "copy.gif", "topic_id": "t3", "query": "query of t3"})
    inputs.post("copy.gif", ["t1"])
    built = inputs.build("out")
    assert built.manifest["merged"] == {"copy.gif": ["3.png"]}  # the first one in records.csv stands for both
    topics = [row["topic_id"] for row in built.all_rows() if row["image_id"] == "copy"]
    assert sorted(topics) == ["t1", "t2", "t3"] and not any(row["image"] == "3.png" for row in built.all_rows())
    assert built.dropped == [
        {"line": "27", "image": "copy.gif", "topic_id": "t1",
         "reason": "repeated: this topic has this meme in line 9 already (3.png)"}
    ]  # fmt: skip
    assert not (built.folder / "images" / "3.png").exists()


def test_the_largest_picture_stands_for_merged_near_duplicates(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(12):
        inputs.meme(f"{number}.png", ["t1", "t2"], seed=number)
    for side, topics in ((48, ["t1"]), (96, ["t3"]), (80, ["t3"])):
        inputs.meme(f"x{side}.png", topics, seed=77, side=side, text="the same words here")
    built = inputs.build("out", "--near_duplicates", "merge")
    merged = [row for row in built.all_rows() if row["image"].startswith("x")]
    assert {row["image"] for row in merged} == {"x96.png"} and {row["topic_id"] for row in merged} == {"t1", "t3"}
    assert built.manifest["merged"] == {"x96.png": ["x48.png", "x80.png"]}
    assert [row["reason"] for row in built.dropped] == [
        "repeated: this topic has this meme in line 27 already (x96.png)"
    ]
    assert "1 groups of 3 memes in all, each merged into one meme" in capsys.readouterr().out
    kept = inputs.build("kept")
    assert sum(row["image"].startswith("x") for row in kept.all_rows()) == 3


def test_without_any_text_the_captions_are_compared(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(8):
        inputs.meme(f"{number}.png", ["t"], seed=number, text="")
    for number in range(4):
        inputs.meme(
            f"x{number}.png", ["t"], seed=99, mark=number, text="", captions=["cat", "dog " * (1 + number // 2)]
        )
    built = inputs.build("out")
    assert built.manifest["counts"]["near_duplicate_groups"] == 2
    assert built.manifest["counts"]["template_groups"] == 1
    printed = capsys.readouterr().out
    assert "captions within 10%): 2 groups of 4 memes" in printed and "(No meme has a text." in printed


def test_image_ids(tmp_path):
    inputs = Inputs(tmp_path)
    names = ["m.png", "m.bmp", "m.png.png", "n.v2.png", "sub/m.png", "sub/x.png", "梗 图.png", " lead.png", "plain.png"]
    for number, name in enumerate(names):
        inputs.meme(name, ["t"], seed=number)
    built = inputs.build("out")
    assert {row["image"]: row["image_id"] for row in built.all_rows()} == {
        "m.png": "m.png",
        "m.bmp": "m.bmp",
        "m.png.png": "m.png.png",
        "n.v2.png": "n.v2",
        "sub/m.png": "sub/m",
        "sub/x.png": "sub/x",
        "梗 图.png": "梗 图",
        " lead.png": '" lead"',
        "plain.png": "plain",
    }
    for row in inputs.rows:
        row["image_id"] = f"id {names.index(row['image'])}"
    with_ids = inputs.build("with_ids")
    assert {row["image"]: row["image_id"] for row in with_ids.all_rows()} == {
        name: f"id {number}" for number, name in enumerate(names)
    }


def test_texts_arrive_as_they_are(tmp_path):
    inputs = Inputs(tmp_path)
    captions = ['一只猫说：“我很累”, "so", 😀', "[not a list]"]
    text = ' two\r\nlines, "quoted"\n'
    for number in range(6):
        inputs.meme(f"{number}.png", ["t"], seed=number, captions=captions, text=text, emotions=["Joy", "难过", "zen"])
    for row in inputs.rows:
        row["query"] = 'a "query", with\nall'
    split = inputs.build("out").load()["train"]
    assert split.queries == ['a "query", with\nall']
    assert {(meme.captions, meme.text) for meme in split.memes} == {(tuple(captions), text)}


def test_emotions_are_mapped_and_other_words_are_kept_and_counted(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(6):
        emotions = [["joyful", "zen"], ["HAPPY", "blah", "zen"], []][number % 3]
        inputs.meme(f"{number}.png", ["t"], seed=number, emotions=emotions)
    built = inputs.build("out")
    found = Counter(row["emotions"] for row in built.all_rows())
    assert found == {
        '{"person1": "happy", "person2": "zen"}': 2,
        '{"person1": "happy", "person2": "blah", "person3": "zen"}': 2,
        "{}": 2,
    }
    assert "kept as they are (--emotion_table): zen (4), blah (2)." in capsys.readouterr().out
    table = tmp_path / "table.csv"
    table.write_text("word,emotion\nzen,calm\nblah,bored\njoyful,happy\n")
    built = inputs.build("mapped", "--emotion_table", str(table))
    assert '{"person1": "happy", "person2": "calm"}' in {row["emotions"] for row in built.all_rows()}
    assert "outside the table" not in capsys.readouterr().out


# What is left out


def test_what_is_dropped_is_listed_with_the_reason(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(20):
        inputs.meme(f"{number}.png", ["t1"], seed=number)
    inputs.post("gone.png", ["t1"])  # line 22
    inputs.post("broken.jpg", ["t1"])
    inputs.meme("blocked.png", ["t1", "t2"], seed=30, status="blocked", error="SAFETY")
    inputs.meme("silent.png", ["t1"], seed=31, captions=[])
    inputs.meme("unknown.png", ["t1"], seed=32)
    inputs.annotations.pop()
    inputs.post("0.png", ["t1"])
    (inputs.images / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    inputs.meme("later.png", ["t1"], seed=33, status="rate_limit", error="429")
    inputs.annotations.append(annotation(inputs.images / "later.png"))  # a later row counts
    built = inputs.build("out")
    assert [(row["line"], row["image"], row["topic_id"]) for row in built.dropped] == [
        ("22", "gone.png", "t1"),
        ("23", "broken.jpg", "t1"),
        ("24", "blocked.png", "t1"),
        ("25", "blocked.png", "t2"),
        ("27", "unknown.png", "t1"),
        ("26", "silent.png", "t1"),
        ("28", "0.png", "t1"),
    ]
    reasons = [row["reason"] for row in built.dropped]
    assert re.fullmatch("image missing or unreadable: .*gone.png.*No such file.*", reasons[0])
    assert re.fullmatch("image missing or unreadable: .*broken.jpg.*", reasons[1])
    assert reasons[2:] == [
        "annotation failed: blocked: SAFETY",
        "annotation failed: blocked: SAFETY",
        "no annotation",
        "no caption: other memes have captions",
        "repeated: this topic has this meme in line 2 already (0.png)",
    ]
    assert any(row["image"] == "later.png" for row in built.all_rows())
    printed = capsys.readouterr().out
    assert "Records dropped: 7 (listed in dropped.csv)" in printed
    expected = {
        "image missing or unreadable": 2,
        "annotation failed": 2,
        "no annotation": 1,
        "no caption": 1,
        "repeated": 1,
    }
    assert built.manifest["dropped"] == {kind.replace(" ", "_"): count for kind, count in expected.items()}
    for kind, count in expected.items():
        assert re.search(rf"\n +{count}  {kind}\n", printed)


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    inputs = Inputs(tmp_path)
    for number in range(5):
        inputs.meme(f"{number}.png", ["t1"], seed=number, status="blocked", error="no")
    with pytest.raises(SystemExit, match=r"train split: no record is left.* 0 records .*5 \(annotation failed\)"):
        inputs.build("out")
    assert not (tmp_path / "out").exists()
    pair = Inputs(tmp_path / "pair")
    pair.meme("a.png", ["t1"], seed=1)
    pair.meme("b.png", ["t1"], seed=2)
    with pytest.raises(SystemExit, match="no record is left.* 2 records are left in all, of 2 memes in 1 topics"):
        pair.build("out")


# The command to train with


def command(printed):
    return re.search(r"\n  (python main_task_retrieval.py .*)\n", printed)[1]


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, []),
        ({"captions": []}, ["--caption_source", "text"]),
        ({"captions": [], "text": ""}, ["--branches", "qi", "--caption_fusion", "none"]),
    ],
)
def test_the_command_to_train_with(tmp_path, capsys, fields, flags):
    inputs = Inputs(tmp_path / "a folder")
    for number in range(12):
        inputs.meme(f"{number}.png", ["t1"], seed=number, **fields)
    built = inputs.build("out", "--images_as", "none")
    printed = capsys.readouterr().out
    words = shlex.split(command(printed))
    features = ["--features_path", str(inputs.images)]
    size = ["--pretrained_clip_name", "ViT-tiny/8", "--lr", "1e-3", "--batch_size", "8"]  # of 10 records; no weights
    paths = ["--do_train", "--data_path", str(built.folder), *features]
    assert words[2:] == [*paths, *flags, *size, "--output_dir", "runs/out"]
    parse_arguments(words[2:])
    assert ("No meme has a caption" in printed) == bool(flags)
    if flags:
        assert f"{0 if fields.get('text', 1) else 12} of 12 memes have no text either" in printed
    assert not (built.folder / "images").exists()
    built.load(read_captions=not flags, images=inputs.images)


@pytest.fixture(autouse=True)
def clip(tmp_path, monkeypatch):
    """Where CLIP's weights would be."""
    path = tmp_path / "modules" / "ViT-B-32.pt"
    monkeypatch.setattr(summary, "path_of", lambda name: path if name == "ViT-B/32" else None)
    return path


def test_with_clips_weights_the_command_names_no_other(tmp_path, clip, capsys):
    inputs = Inputs(tmp_path / "a")
    for number in range(12):
        inputs.meme(f"{number}.png", ["t1"], seed=number)
    inputs.build("out")
    printed = capsys.readouterr().out
    assert "(from scratch, as CLIP's weights are not here: python -m preprocess.download clip)" in printed
    clip.parent.mkdir()
    clip.touch()
    inputs.build("again")
    printed = capsys.readouterr().out
    assert "from scratch" not in printed and "--pretrained_clip_name" not in command(printed)
    assert "--batch_size 8 --output_dir" in command(printed)


@pytest.mark.parametrize(
    ("records", "weights", "expected"), [(1000, True, None), (1000, False, 64), (63, False, 32), (3, True, 2)]
)
def test_the_batch_fits_the_train_split(clip, records, weights, expected):
    if weights:
        clip.parent.mkdir()
        clip.touch()
    _, flags = summary.size_flags(records)
    assert flags[-2:] == ["--batch_size", str(expected)] if expected else flags == []


def test_the_command_runs_as_printed(tmp_path, capsys, monkeypatch):
    inputs = Inputs(tmp_path / "a folder")
    for number in range(12):
        inputs.meme(f"{number}.png", [f"t{number % 2}"], seed=number, captions=[], text="" if number else "one text")
    inputs.build("out", "--split", "0.5", "0.25", "0.25")
    words = shlex.split(command(capsys.readouterr().out))
    assert words[:2] == ["python", "main_task_retrieval.py"] and "--branches" in words
    monkeypatch.chdir(tmp_path)
    assert train([*words[2:], "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "out" / "metrics.json").is_file()


def test_the_readme_and_annotate_have_the_same_rule():
    for page in ("README.md", "docs/PREPARE.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        for flags in (BY_TEXT, BY_IMAGE):
            assert f"`{' '.join(flags)}`" in text, page
    every = {0, 1, 2}
    assert (flags_for(every, every), flags_for({0, 1}, every), flags_for(set(), every)) == (BY_TEXT, BY_IMAGE, BY_IMAGE)


# By template


def named_inputs(folder):
    """24 memes of pictures that have nothing in common, four of each template that the column `series` names.

    m22 and m23 are nearly the same, and are of two templates by their names.
    """
    inputs = Inputs(folder)
    for number in range(23):
        inputs.meme(
            f"m{number}.png", [f"t{number % 2}"], seed=number, text=f"text of {'abcdefghijklmnopqrstuvwx'[number] * 9}"
        )
    inputs.meme("m23.png", ["t1"], seed=22, mark=5, text=inputs.annotations[22]["text"])
    for number, row in enumerate(inputs.rows):
        row["series"] = f"series {number % 6}"
    return inputs


def test_templates_by_a_column_stay_whole_and_near_duplicates_join_them(tmp_path, capsys):
    inputs = named_inputs(tmp_path)
    flags = ("--split", "0.4", "0.3", "0.3")
    built = inputs.build("by_name", "--split_by", "template", "--template_column", "series", *flags)
    printed = capsys.readouterr().out
    splits = defaultdict(set)
    for split in SPLITS:
        for row in built.rows[split]:
            splits[int(row["image_id"][1:]) % 6].add(split)
    assert len(splits) == 6 and all(len(found) == 1 for found in splits.values())
    assert splits[22 % 6] == splits[23 % 6]
    assert len(built.all_rows()) == 24 and {split for found in splits.values() for split in found} == set(SPLITS)
    assert "Templates (the column 'series', or near-duplicates): 5 groups of 24 memes in all, each kept" in printed
    assert "has as well: val 0.0% of its memes (0 of " in printed
    assert "Columns" not in printed, "it is used"


def test_the_share_of_known_templates(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(40):  # the first half are of five templates, the others of one each
        seed = number % 5 if number < 20 else number
        inputs.meme(f"m{number}.png", ["t"], seed=seed, mark=number, text=f"number {str(number) * 5}")
    built = inputs.build("out", "--split", "0.5", "0.25", "0.25")
    facts = hashes(built, inputs.images)
    [*templates] = slow_groups(facts, nearly_same(facts, text_counts=False))
    of = {image: number for number, group in enumerate(templates) for image in group}
    here = {split: {row["image"] for row in built.rows[split]} for split in SPLITS}
    known = {of[image] for image in here["train"]}
    printed, counts = capsys.readouterr().out, built.manifest["counts"]["templates_in_two_splits"]
    assert len(templates) == 25
    for split in ("val", "test"):
        memes = [image for image in here[split] if of[image] in known]
        assert counts[split] == {
            "templates": len({of[image] for image in here[split]}),
            "in_train": len({of[image] for image in memes}),
            "memes": len(here[split]),
            "of_these": len(memes),
        }
        assert f"{split} {len(memes) / len(here[split]):.1%} of its memes" in printed
    assert sum(part["of_these"] for part in counts.values()) > 0


def test_templates_of_records_that_are_all_dropped(tmp_path):
    inputs = named_inputs(tmp_path)
    inputs.annotations = [row | {"status": "blocked"} for row in inputs.annotations]
    with pytest.raises(SystemExit, match="no record is left"):
        inputs.build("out", "--split_by", "template", "--template_column", "series")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--template_groups"], 2),
        (["--template_column", "series"], 2),
        (["--split_by", "template", "--template_column", "colour"], "expected also the column 'colour'"),
    ],
)
def test_flags_of_templates_that_make_no_sense(tmp_path, flags, expected):
    inputs = named_inputs(tmp_path)
    inputs.write()
    with pytest.raises(SystemExit) as error:
        build_community.main(inputs.flags("out", *flags))
    assert error.value.code == expected if isinstance(expected, int) else expected in error.value.code


# What spoils an evaluation


def test_topics_that_are_not_in_all_splits_are_warned_of(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(62):
        inputs.meme(f"{number}.png", ["large" if number < 60 else f"small{number}"], seed=number)
    inputs.build("out")
    printed = capsys.readouterr().out
    assert "Topics that are in all three splits: 1 of 3." in printed
    assert "Warning: 2 topics are not in all three splits: 'small60' (1 record), 'small61' (1 record)." in printed
    inputs.build("by_topic", "--split_by", "topic", "--split", "0.4", "0.3", "0.3")
    assert "not in all" not in capsys.readouterr().out


def test_a_split_that_is_too_small_is_warned_of(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(240):
        inputs.meme(f"{number}.png", [f"t{number % 12}"], seed=number, side=16)
    inputs.build("out", "--split", "0.5", "0.25", "0.25")
    assert "Warning" not in capsys.readouterr().out
    inputs.build("small")
    printed = capsys.readouterr().out
    assert (
        "Warning: the test split is small: 12 topics and 24 memes. One query more or less moves R@1 by 8.3; any model "
        "has an R@50 of 100." in printed
    )
    assert "Warning: the val split is small: 12 topics and 24 memes." in printed


# Images


def test_links_are_resolved_and_subfolders_kept(tmp_path):
    inputs = Inputs(tmp_path)
    for number in range(8):
        inputs.meme(f"in/{number}.png", ["t1"], seed=number)
    os.symlink("in/3.png", inputs.images / "link.png")
    os.symlink("in", inputs.images / "folder")
    inputs.rows[3]["image"] = "link.png"
    inputs.rows[4]["image"] = "folder/4.png"
    for how in ("hardlink", "copy"):
        built = inputs.build(how, "--images_as", how)
        images = {row["image"] for row in built.all_rows()}
        assert {"link.png", "folder/4.png", "in/0.png"} < images
        for image in images:
            path = built.folder / "images" / image
            assert path.is_file() and not path.is_symlink() and not path.parent.is_symlink()
            assert path.read_bytes() == (inputs.images / image).read_bytes()
            assert (path.stat().st_nlink > 1) == (how == "hardlink")


def test_a_copy_is_made_where_links_are_impossible(tmp_path, monkeypatch, capsys):
    def link(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    inputs = Inputs(tmp_path)
    for number in range(5):
        inputs.meme(f"{number}.png", ["t1"], seed=number)
    built = inputs.build("out")
    assert "5 images were copied" in capsys.readouterr().out
    assert (built.folder / "images" / "0.png").read_bytes() == (inputs.images / "0.png").read_bytes()
    built.load()


# The same for a seed


def comparable(folder):
    names = (*(f"{name}.csv" for name in SPLITS), "dropped.csv")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("flags", [["--split_by", "topic"], ["--near_duplicates", "merge"]])
def test_the_same_seed_gives_the_same_community(tmp_path, flags):
    inputs = random_inputs(tmp_path / "one", seed=21)
    first = inputs.build("out", "--workers", "1", *flags)
    other = Inputs(tmp_path / "two")
    for path in sorted(inputs.images.rglob("*.png"), reverse=True):
        target = other.images / path.relative_to(inputs.images)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    other.rows, other.annotations = inputs.rows, inputs.annotations[::-1]
    again = other.build("out", "--workers", "3", *flags)
    assert comparable(again.folder) == comparable(first.folder)
    third = other.build("third", "--seed", "1", *flags)
    assert comparable(third.folder) != comparable(first.folder)


# The folder


@pytest.mark.parametrize("flags", [[], ["--near_duplicates", "merge"], ["--split_by", "topic"]])
def test_the_order_of_the_rows_does_not_matter(tmp_path, flags):
    inputs = random_inputs(tmp_path, seed=5)
    for number in range(12):  # equal pixels, other bytes, and a name that sorts the other way
        inputs.meme(f"e/{99 - number}.png", ["t0", "t1"], seed=5000 + number, mark=9, text=f"the same {number}")
        inputs.meme(f"d/x{number}.png", ["t2"], seed=5000 + number, mark=5, text=f"the same {number}")
    shares = ["--split", "0.4", "0.3", "0.3"]
    built = [inputs.build("out", *flags, *shares)]
    inputs.rows.reverse()
    built.append(inputs.build("reversed", *flags, *shares))

    def content(community, split):
        folder = community.folder / "images"
        return sorted((row["topic_id"], (folder / row["image"]).read_bytes()) for row in community.rows[split])

    for split in SPLITS:
        assert content(built[0], split) == content(built[1], split)


def test_an_interrupted_build_leaves_no_half_folder_and_goes_on(tmp_path, monkeypatch, capsys):
    inputs = Inputs(tmp_path)
    for number in range(5):
        inputs.meme(f"{number}.png", ["t1"], seed=number)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_csv, "place_images", interrupted)
        with pytest.raises(SystemExit) as stop:
            inputs.build("out")
        assert stop.value.code == 130 and "stopped" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()
    assert (tmp_path / ".out.image_facts.csv").is_file()
    (tmp_path / "out").mkdir()  # an empty one may be used
    (tmp_path / ".out.partial").mkdir()  # as a killed process leaves it
    (tmp_path / ".out.partial" / "train.csv").write_text("half")
    inputs.build("out").load()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.jsonl", "images", "out", "records.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "build.json", "dropped.csv", "images", "test.csv", "train.csv", "val.csv"
    ]  # fmt: skip


def test_another_thing_in_its_place_is_an_error(tmp_path):
    inputs = Inputs(tmp_path)
    inputs.meme("a.png", ["t1"], seed=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit, match="error: .*file is a file; a community is a folder"):
        inputs.build("file")
    for flags in ([], ["--overwrite"]):
        with pytest.raises(SystemExit, match="images is not empty and was not made by this program"):
            inputs.build("images", *flags)


def some_inputs(folder, count=6):
    inputs = Inputs(folder)
    for number in range(count):
        inputs.meme(f"{number}.png", ["t1"], seed=number)
    return inputs


def all_files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_own_old_folder_is_replaced_if_asked_for(tmp_path):
    inputs = some_inputs(tmp_path)
    inputs.build("out")
    before = all_files(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"out was made by this program already; --overwrite replaces it"):
        inputs.build("out", "--seed", "1")
    inputs.build("fresh", "--seed", "1", "--overwrite")  # where nothing is, it changes nothing
    inputs.build("out", "--seed", "1", "--overwrite")
    after = all_files(tmp_path / "out")
    assert {**after, "build.json": b""} == {**all_files(tmp_path / "fresh"), "build.json": b""}
    assert after["train.csv"] != before["train.csv"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("where", ["place_images", "rename"])
def test_the_old_folder_stays_until_the_new_one_is_complete(tmp_path, monkeypatch, where):
    inputs = some_inputs(tmp_path)
    inputs.build("out")
    before = all_files(tmp_path / "out")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_rename(path, target):
        if path.name.endswith(".partial"):
            full()
        return os.rename(path, target)

    with monkeypatch.context() as patch:
        if where == "rename":
            patch.setattr("pathlib.Path.rename", full_rename)
        else:
            patch.setattr(build_csv, "place_images", full)
        with pytest.raises(SystemExit, match="No space left"):
            inputs.build("out", "--seed", "1", "--overwrite")
    assert all_files(tmp_path / "out") == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith((".partial", ".old"))]


def test_a_process_that_was_killed_while_it_replaced_loses_nothing(tmp_path):
    inputs = some_inputs(tmp_path)
    inputs.build("out")
    before = all_files(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.old")  # killed between the two renames
    with pytest.raises(SystemExit, match="--overwrite replaces it"):
        inputs.build("out")
    assert all_files(tmp_path / "out") == before and not (tmp_path / ".out.old").exists()
    shutil.copytree(tmp_path / "out", tmp_path / ".out.old")  # killed after both
    inputs.build("out", "--seed", "1", "--overwrite")
    assert not (tmp_path / ".out.old").exists()


def test_what_is_not_its_own_is_not_overwritten(tmp_path):
    inputs = some_inputs(tmp_path)
    inputs.build("out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="out holds notes.txt, which this program did not write"):
        inputs.build("out", "--overwrite")
    (tmp_path / "out" / "notes.txt").unlink()
    shutil.move(tmp_path / "records.csv", tmp_path / "out" / "train.csv")
    flags = inputs.flags("out", "--overwrite")
    for flag, path in (("--records", "out/train.csv"), ("--images", "out/images"), ("--annotations", "out/build.json")):
        changed = [*flags]
        changed[changed.index(flag) + 1] = str(tmp_path / path)
        with pytest.raises(SystemExit, match=f"{flag} .*{path} lies in --out, which --overwrite replaces"):
            build_community.main(changed)


# Errors


def test_all_bad_rows_are_reported_together(tmp_path):
    inputs = Inputs(tmp_path)
    inputs.meme("a.png", ["t1"], seed=1)
    os.symlink("/etc/hostname", inputs.images / "out.png")
    inputs.write()
    (tmp_path / "records.csv").write_text(
        "image,topic_id,query,image_id,note\n"
        "a.png,t1,one,m1,\n"
        "../b.png,t1,one,m2,\n"
        "/abs.png,t1,one,m3,\n"
        "out.png,t1,one,m4,\n"
        "a.png,,one,m1,\n"
        "a.png,t1 ,one,m1,\n"
        "a.png,t2,   ,m1,\n"
        "a.png,t1,two,m1,\n"
        "c.png,t1,one,m1,\n"
        "a.png,t1,one,m1\n"
        'a.png,t1,"on"e,m1,\n'
        "a.png,t1,one, m1,\n"
    )
    with pytest.raises(SystemExit) as error:
        build_community.main(inputs.flags("out"))
    lines = str(error.value).splitlines()
    records = f"  {tmp_path / 'records.csv'}, line "
    assert lines[0] == "error: 11 bad rows:"
    for line, start, end in (
        (3, "column 'image': found '../b.png'", "a path that stays inside"),
        (4, "column 'image': found '/abs.png'", "a path relative to"),
        (5, "column 'image': found 'out.png', which is linked to", "a file inside"),
        (6, "column 'topic_id': found ''", "an id that is not empty"),
        (7, "column 'topic_id': found 't1 '", "no spaces around it"),
        (8, "column 'query': found '   '", "a text that is not empty"),
        (9, "column 'query': found 'two', expected 'one' as in line 2", "topic_id 't1' has one query"),
        (10, "column 'image': found 'c.png', expected 'a.png' as in line 2", "image_id 'm1' has one image"),
        (11, "fields: found 4", "expected 5: image,topic_id,query,image_id,note"),
        (12, "the record", "found broken quoting"),
        (13, "column 'image_id': found ' m1'", "no spaces around it"),
    ):
        assert any(text.startswith(f"{records}{line}, {start}") and end in text for text in lines), line
    assert not (tmp_path / ".out.image_facts.csv").exists()  # before any image was read


def test_columns_that_are_not_used_are_named_once(tmp_path, capsys):
    inputs = Inputs(tmp_path)
    for number in range(4):
        inputs.meme(f"{number}.png", ["t1"], seed=number)
    for row in inputs.rows:
        row |= {"note": "x", "likes": "3"}
    inputs.build("out")
    assert capsys.readouterr().out.count("records.csv that are not used: 'note', 'likes'.") == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("records.csv", None, "records.csv: found no readable file .No such file.*, expected a CSV"),
        ("records.csv", "", "records.csv, line 1, header: found nothing, expected image,topic_id,query"),
        ("records.csv", "image,topic_id,query\n", "records.csv: found no record, expected at least one"),
        ("records.csv", "image,topic\na.png,t\n", "header: found 'image,topic', expected also the column 'topic_id'"),
        ("records.csv", "image,topic_id,query,image\n", "expected the column 'image' once"),
        ("records.csv", b"\xff\xfei\0", "found UTF-16, expected UTF-8"),
        ("annotations.jsonl", None, "annotations.jsonl: cannot be read: No such file"),
        ("annotations.jsonl", "", "annotations.jsonl: found no row"),
        ("annotations.jsonl", "{}\n{}\n", "annotations.jsonl, line 1: "),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    inputs = Inputs(tmp_path)
    inputs.meme("a.png", ["t1"], seed=1)
    inputs.write()
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=f"error: (.|\n)*{message}"):
        build_community.main(inputs.flags("out"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"captions": ["a", " "]}, "the row of a.png, 'captions': found .*whose element 2 is empty"),
        ({"emotions": [""]}, "the row of a.png, 'emotions': found .*whose element 1 is empty"),
        ({"text": "a\0b"}, "the row of a.png, 'text': found .*expected text without NUL"),
    ],
)
def test_an_annotation_that_no_csv_can_hold(tmp_path, fields, message):
    inputs = Inputs(tmp_path)
    inputs.meme("a.png", ["t1"], seed=1, **fields)
    with pytest.raises(SystemExit, match=message):
        inputs.build("out")


@pytest.mark.parametrize("value", ["a\\ud83d", "\\ude00"])
def test_half_of_a_character_in_a_caption(tmp_path, value):
    inputs = Inputs(tmp_path)
    inputs.meme("a.png", ["t1"], seed=1, captions=["HALF"])
    inputs.write()
    path = tmp_path / "annotations.jsonl"
    path.write_text(path.read_text().replace("HALF", value))
    with pytest.raises(SystemExit, match="'captions': found .*holds half of a character"):
        build_community.main(inputs.flags("out"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "0.8", "0.1", "0.2"], "--split: found 0.8 0.1 0.2, expected three numbers above 0 with the sum 1"),
        (["--split", "0.9", "0.1", "0"], "--split: found 0.9 0.1 0, expected"),
        (["--split", "1.2", "-0.1", "-0.1"], "--split: found"),
        (["--split", "nan", "0.1", "0.1"], "--split: found nan"),
        (["--hash_threshold", "65"], "--hash_threshold: found 65, expected 0 to 64 bits"),
        (["--workers", "0"], "--workers: found 0, expected 1 or more"),
        (["--images", "nowhere"], "nowhere: found no such folder, expected the folder of the images"),
        (["--emotion_table", "nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, flags, message):
    inputs = Inputs(tmp_path)
    inputs.meme("a.png", ["t1"], seed=1)
    with pytest.raises(SystemExit, match=re.escape(message)):
        inputs.build("out", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "x"], "--records, --annotations and --images are needed"),
        (["--out", "x", "--records", "r", "--images", "i"], "--records, --annotations and --images are needed"),
        (["--out", "x", "--from_json", "f", "--records", "r"], "--from_json stands instead"),
        (["--from_json", "f"], "required: --out"),
    ],
)
def test_flags_that_do_not_go_together(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        build_community.main(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_shares_that_sum_to_one_but_for_rounding_are_right(tmp_path):
    inputs = Inputs(tmp_path)
    for number in range(9):
        inputs.meme(f"{number}.png", ["t1"], seed=number)
    third = repr(1 / 3)
    built = inputs.build("out", "--split", third, third, third)
    assert [len(built.rows[name]) for name in SPLITS] == [3, 3, 3]
