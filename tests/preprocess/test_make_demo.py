"""The demo community: the format, its determinism, what is spread over pictures, captions and emotions."""

import csv
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dataloaders.image_transform import read_frames
from dataloaders.meme_records import COLUMNS, read_splits
from preprocess import make_demo
from preprocess.demo import meme_plans as demo_memes
from preprocess.demo import people as demo_people
from preprocess.demo import wording as demo_texts
from preprocess.demo.canvas import Canvas, draw_text
from preprocess.make_demo import MEMES_PER_TOPIC
from tests.conftest import ROOT
from util import InputError

SPLITS = tuple(MEMES_PER_TOPIC)
FEW = {"train": 1, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, make_demo.make_demo(folder, size=64)


@pytest.fixture(scope="module")
def rows(demo):
    """split -> its rows as dicts, captions and emotions read as JSON."""
    read = {}
    for split in SPLITS:
        with open(demo[0] / f"{split}.csv", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            assert tuple(reader.fieldnames) == COLUMNS
            read[split] = [row | {key: json.loads(row[key]) for key in ("captions", "emotions")} for row in reader]
    return read


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(make_demo, "MEMES_PER_TOPIC", FEW)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_a_process(code, **environment):
    command = [sys.executable, "-c", f"from preprocess import make_demo\n{code}"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


# Format


def test_counts(demo, rows):
    folder, counts = demo
    everything = list(itertools.chain(*rows.values()))
    assert counts["records"] == len(everything)
    assert counts["memes"] == len({row["image_id"] for row in everything}) == len(list((folder / "images").iterdir()))
    assert counts["topics"] == len({row["topic_id"] for row in everything})
    assert {split: counts[split] for split in SPLITS} == {split: len(rows[split]) for split in SPLITS}
    assert counts["topics"] >= 40 and counts["memes"] >= 600


def test_rows_follow_the_format(rows):
    described, queries = {}, {}
    for split in SPLITS:
        assert len({(row["topic_id"], row["image_id"]) for row in rows[split]}) == len(rows[split])
        for row in rows[split]:
            assert row["captions"] and all(isinstance(text, str) and text.strip() for text in row["captions"])
            assert all(word in demo_texts.FEELINGS for word in row["emotions"]) and len(row["emotions"]) <= 3
            meme = (row["image"], row["captions"], row["emotions"], row["text"])
            assert described.setdefault(row["image_id"], meme) == meme
            assert queries.setdefault(row["topic_id"], row["query"]) == row["query"]


def test_the_project_reads_it(demo, rows):
    folder, counts = demo
    splits, notes = read_splits({split: folder / f"{split}.csv" for split in SPLITS}, folder / "images")
    assert notes == []
    for split in SPLITS:
        assert len(splits[split]) == counts[split]
        assert splits[split].topic_ids == list(dict.fromkeys(row["topic_id"] for row in rows[split]))
        assert [meme.emotions for meme in splits[split].memes] == [
            tuple(emotions) for emotions in {row["image_id"]: row["emotions"] for row in rows[split]}.values()
        ]


def test_known_queries_new_memes(rows):
    """Every topic is in every split; no meme is in two."""
    assert len({frozenset(row["topic_id"] for row in rows[split]) for split in SPLITS}) == 1
    for one, other in itertools.combinations(SPLITS, 2):
        assert not {row["image_id"] for row in rows[one]} & {row["image_id"] for row in rows[other]}


def test_a_few_memes_are_in_two_topics(rows):
    for split in SPLITS:
        times = Counter(row["image_id"] for row in rows[split])
        assert 0.01 < sum(count == 2 for count in times.values()) / len(times) < 0.15
        assert set(times.values()) == {1, 2}


def test_every_image_decodes(demo, rows):
    folder, _ = demo
    frames, channels = Counter(), Counter()
    for path in (folder / "images").iterdir():
        shown = read_frames(path, max_frames=6)
        assert {frame.shape for frame in shown} == {(64, 64, 3)}
        assert all(frame.std() > 10 for frame in shown)
        frames[len(shown)] += 1
        if path.suffix == ".png":
            channels[cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape[2:]] += 1
    assert set(frames) == {1, 4} and frames[4] >= 5
    assert channels[()] >= 5 and channels[(4,)] >= 5


def test_a_transparent_meme_on_white_is_the_drawn_one(tmp_path):
    meme = next(meme for meme in planned("train") if meme.form == "transparent")
    demo_memes.write_image(meme, tmp_path / "meme.png", 64, 0)
    assert (cv2.imread(str(tmp_path / "meme.png"), cv2.IMREAD_UNCHANGED)[..., 3] == 0).mean() > 0.2
    difference = read_frames(tmp_path / "meme.png")[0][..., ::-1].astype(int) - demo_memes.draw_meme(meme, 64, 0)
    assert np.abs(difference).max() <= 2


# Determinism


def planned(split, seed=0):
    return [
        demo_memes.plan_meme(f"{topic}-{split}{number:02d}", topic, seed)
        for topic in demo_texts.TOPICS
        for number in range(MEMES_PER_TOPIC[split])
    ]


def test_same_seed_same_bytes_in_another_process(tmp_path, few):
    make_demo.make_demo(tmp_path / "here", seed=3, size=64)
    code = f"make_demo.MEMES_PER_TOPIC = {FEW}; make_demo.make_demo({str(tmp_path / 'there')!r}, seed=3, size=64)"
    done = in_a_process(code, PYTHONHASHSEED="5")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_another_seed_gives_other_memes(tmp_path, few):
    for seed in (0, 1):
        make_demo.make_demo(tmp_path / f"{seed}", seed=seed, size=32)
    one, other = contents(tmp_path / "0"), contents(tmp_path / "1")
    same = [name for name in one if one[name] == other.get(name)]
    assert same == []


def test_the_texts_do_not_depend_on_the_size(tmp_path, few):
    for size in (32, 48):
        make_demo.make_demo(tmp_path / f"{size}", size=size)
    for split in SPLITS:
        assert (tmp_path / "32" / f"{split}.csv").read_bytes() == (tmp_path / "48" / f"{split}.csv").read_bytes()


# What is drawn


@pytest.mark.parametrize("size", [32, 128, 200])
def test_text_is_never_cut_off(size):
    lines = {*demo_texts.ANYTHING, *demo_texts.HINTS, *itertools.chain(*(s.lines for s in demo_texts.SCENES.values()))}
    for line, at_top in itertools.product(sorted(lines), (True, False)):
        canvas = Canvas(size, "#808080")
        draw_text(canvas, line, at_top)
        drawn = (canvas.pixels != 0x80).any(axis=2)
        assert drawn.any(), line
        assert not (drawn[:, :1].any() or drawn[:, -1:].any() or drawn[:1].any() or drawn[-1:].any()), (line, at_top)
        assert not drawn[int(0.4 * len(drawn)) : int(0.6 * len(drawn))].any(), (line, at_top)


def test_expressions_follow_the_emotion_words():
    """Each two feelings differ visibly in an uncovered face; a covered face shows none of them."""
    for cover in ("", *demo_texts.COVERS):
        faces = []
        for emotion in demo_texts.FEELINGS:
            canvas = Canvas(64, "#ffffff")
            person = demo_memes.Person(emotion, cover, "red", skin=1, hair=0, style=0)
            demo_people.draw_person(canvas, person, 50, 50, 20)
            faces.append(canvas.finished().astype(int))
        for one, other in itertools.combinations(faces, 2):
            assert (np.abs(one - other).max(axis=2) > 60).sum() > 20 if not cover else (one == other).all()


def test_a_hidden_feeling_is_in_the_emotion_word_only():
    memes = [meme for meme in planned("val") if len(meme.people) == 1]
    for kind, same in (("hidden", True), ("shown", False)):
        meme = next(meme for meme in memes if meme.kind == kind)
        assert len(meme.emotions) == 1
        other = next(word for word in demo_texts.FEELINGS if word != meme.emotions[0])
        changed = replace(meme, people=(replace(meme.people[0], emotion=other),))
        pictures = [demo_memes.draw_meme(each, 64, 0) for each in (meme, changed)]
        assert np.array_equal(*pictures) == same


# What is spread over pictures, captions and emotions


def scene_of(row):
    return row["topic_id"].split("-")[0]


def feeling_of(row):
    return row["topic_id"].split("-")[1]


def topic_of(row):
    return row["topic_id"]


def caption_words(row):
    return set(re.findall(r"[a-z0-9']+", " ".join(row["captions"]).lower()))


def emotion_words(row):
    return {f"emotion {word}" for word in row["emotions"]} or {"no emotion"}


def test_scenes_and_feelings_are_crossed():
    topics = demo_texts.TOPICS.values()
    feelings_of, scenes_of = defaultdict(set), defaultdict(set)
    for scene, feeling, _ in topics:
        feelings_of[scene].add(feeling)
        scenes_of[feeling].add(scene)
    assert len(feelings_of) >= 10 and {len(feelings) for feelings in feelings_of.values()} == {4}
    assert len(scenes_of) == 8 and {len(scenes) for scenes in scenes_of.values()} == {6}
    for scene in feelings_of:
        queries = {feeling: query for name, feeling, query in topics if name == scene}
        beginnings = set()
        for feeling, query in queries.items():
            beginning, words = query.split(" and you ")
            assert words in demo_texts.QUERY_WORDS[feeling]
            beginnings.add(beginning)
        assert len(beginnings) == 1 and demo_texts.SCENES[scene].situation in beginnings.pop()
        assert len(set(queries.values())) == 4
    assert max(len(query.split()) for _, _, query in topics) < 25


def test_shares_of_what_is_told():
    memes = planned("train")

    def share(is_so):
        return sum(map(is_so, memes)) / len(memes)

    spoken = set(itertools.chain(*demo_texts.CAPTION_WORDS.values()))
    views = list(itertools.chain(*(scene.views for scene in demo_texts.SCENES.values())))
    assert 0.28 < share(lambda meme: not meme.emotions) < 0.38
    assert 0.28 < share(lambda meme: not spoken.isdisjoint(re.findall(r"\w+", meme.captions[0]))) < 0.38
    assert 0.4 < share(lambda meme: any(view in meme.captions[0] for view in views)) < 0.6
    assert 0.1 < share(lambda meme: bool(meme.people) and meme.people[0].cover != "" and bool(meme.emotions)) < 0.25
    assert {len(meme.people) for meme in memes} == {0, 1, 2, 3}
    bystanders = [person.emotion == meme.feeling for meme in memes for person in meme.people[1:] if person.emotion]
    assert 0.4 < np.mean(bystanders) < 0.75
    assert 0.01 < share(lambda meme: not meme.text) < 0.1


def test_captions_tell_the_text_and_never_the_emotion_word():
    for meme in planned("val"):
        assert all(line in meme.captions[0] for line in meme.text.splitlines())
        told = " ".join(meme.captions).replace(meme.upper, "").replace(meme.lower, "").lower()
        assert not set(re.findall(r"\w+", told)) & set(demo_texts.FEELINGS)


def accuracy(train, test, words, label, same_scene):
    """Share of `test` whose label is guessed from a bag of words by counting in `train` (Bernoulli naive Bayes).

    With `same_scene` the scene is given: only labels of the row's own scene are considered.
    """
    seen, rows_of, scene_labels = defaultdict(Counter), Counter(), defaultdict(set)
    for row in train:
        rows_of[label(row)] += 1
        seen[label(row)].update(words(row))
        scene_labels[scene_of(row)].add(label(row))
    known = set(itertools.chain(*seen.values()))

    def log_probability(name, found):
        chances = {word: (seen[name][word] + 0.5) / (rows_of[name] + 1) for word in known}
        return math.log(rows_of[name]) + sum(math.log(p if w in found else 1 - p) for w, p in chances.items())

    right = 0
    for row in test:
        names = sorted(scene_labels[scene_of(row)] if same_scene else rows_of)
        found = words(row)
        right += max(names, key=lambda name: log_probability(name, found)) == label(row)
    return right / len(test)


def test_emotions_captions_and_scene_each_carry_something(rows):
    train, test = rows["train"], rows["val"] + rows["test"]

    def both(row):
        return caption_words(row) | emotion_words(row)

    # Which of the scene's four feelings (a guess gets 25 %), for somebody who knows the scene, as a picture tells it:
    captions = accuracy(train, test, caption_words, topic_of, same_scene=True)
    emotions = accuracy(train, test, emotion_words, topic_of, same_scene=True)
    assert captions > 0.33
    assert captions + 0.15 < emotions < 0.85
    # Which feeling of the eight: captions add to the emotions, and the emotions to the captions.
    feelings = {
        words: accuracy(train, test, words, feeling_of, same_scene=False)
        for words in (caption_words, emotion_words, both)
    }
    assert feelings[both] > max(feelings[caption_words], feelings[emotion_words]) + 0.05
    # The captions alone do not always know the scene, the emotions never do.
    assert 0.6 < accuracy(train, test, caption_words, scene_of, same_scene=False) < 0.88
    assert accuracy(train, test, emotion_words, scene_of, same_scene=False) < 0.25


# The folder


def test_a_second_call_keeps_what_is_there(tmp_path, few, monkeypatch, capsys):
    counts = make_demo.make_demo(tmp_path / "demo", size=32)
    before = contents(tmp_path / "demo")
    monkeypatch.setattr(make_demo, "write_image", None)  # drawing would fail
    assert make_demo.make_demo(tmp_path / "demo", size=32) == counts
    make_demo.main(["--out", str(tmp_path / "demo"), "--size", "32"])
    assert "already there" in capsys.readouterr().out
    assert contents(tmp_path / "demo") == before


def test_an_interrupted_build_leaves_nothing(tmp_path, few, monkeypatch):
    drawn = []

    def interrupted(*arguments):
        if len(drawn) == 10:
            raise KeyboardInterrupt
        drawn.append(demo_memes.write_image(*arguments))

    monkeypatch.setattr(make_demo, "write_image", interrupted)
    (tmp_path / "demo").mkdir()  # empty: may be used
    with pytest.raises(KeyboardInterrupt):
        make_demo.make_demo(tmp_path / "demo", size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"] and not any((tmp_path / "demo").iterdir())


def test_after_a_kill_the_next_call_makes_it_whole(tmp_path, few):
    out = str(tmp_path / "demo")
    killed = in_a_process(
        "import os, signal\n"
        "def write_image(meme, path, size, seed):\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"make_demo.write_image = write_image; make_demo.make_demo({out!r}, size=32)"
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "demo").exists()
    counts = make_demo.make_demo(out, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert len(list((tmp_path / "demo" / "images").iterdir())) == counts["memes"]
    assert all(path.read_bytes() != b"half" for path in (tmp_path / "demo" / "images").iterdir())


def test_another_thing_in_its_place_is_an_error(tmp_path, few):
    make_demo.make_demo(tmp_path / "demo", size=32)
    before = contents(tmp_path / "demo")
    with pytest.raises(InputError, match=r"demo holds a demo of .*'seed': 0.*, not of .*'seed': 1"):
        make_demo.make_demo(tmp_path / "demo", seed=1, size=32)
    with pytest.raises(InputError, match="'size': 32.*not of.*'size': 64"):
        make_demo.make_demo(tmp_path / "demo", size=64)
    assert contents(tmp_path / "demo") == before
    next((tmp_path / "demo" / "images").iterdir()).unlink()
    with pytest.raises(InputError, match=r"lost files \(143 of 144 images\)"):
        make_demo.make_demo(tmp_path / "demo", size=32)
    for manifest in ("", "[]", "{}"):
        (tmp_path / "demo" / "demo.json").write_text(manifest)
        with pytest.raises(InputError, match="not empty and not a demo"):
            make_demo.make_demo(tmp_path / "demo", size=32)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        make_demo.make_demo(tmp_path / "file")
    with pytest.raises(InputError, match="size is 31"):
        make_demo.make_demo(tmp_path / "small", size=31)


def test_command_line(demo, tmp_path, capsys):
    folder, counts = demo
    sheet = tmp_path / "sheet.png"
    make_demo.main(["--out", str(folder), "--size", "64", "--sheet", str(sheet)])
    assert f"{counts['memes']} memes" in capsys.readouterr().out
    height, width, _ = cv2.imread(str(sheet)).shape
    assert height > 3 * 220 and width > 4 * 220
    for wrong in (["--size", "128"], ["--size", "64", "--sheet", str(tmp_path / "sheet.gif")]):
        with pytest.raises(SystemExit, match="^error: "):
            make_demo.main(["--out", str(folder), *wrong])
