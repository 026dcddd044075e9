"""The loop of `annotate`, its file, the check of an answer, the images and the emotion words."""

import csv
import hashlib
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from preprocess import annotate
from preprocess.annotation.annotation_file import Annotation, AnnotationFile, read_annotations
from preprocess.annotation.answer import ANSWER_SCHEMA, Failure, Reply, check_answer, default_prompt
from preprocess.annotation.emotion_words import map_emotions, read_emotion_table, vocabulary
from preprocess.annotation.pictures import by_content, find_images, pictures_of
from tests.conftest import ROOT
from tests.preprocess.vlm_servers import Response, VlmServer, openai
from util import InputError

KEY = "sk-very-secret-0123456789"
ANSWER = {"captions": ["a cat looks at a dog"], "text": "ONE DOES NOT", "emotions": ["Smug", "meh"]}


class FakeModel:
    """Answers `script[i]` to the i-th request, then ANSWER: a text, a Reply, or an exception to raise."""

    name, model, secret = "openai", "fake", KEY

    def __init__(self, *script, delay=0.0, tokens=(100, 10)):
        self.script, self.delay, self.tokens = list(script), delay, tokens
        self.requests, self.times = [], []  # pictures, and when they came
        self.lock = threading.Lock()
        self.active = self.most_active = 0

    def answer(self, pictures, prompt):
        with self.lock:
            self.requests.append(pictures)
            self.times.append(time.monotonic())
            step = self.script.pop(0) if self.script else ANSWER
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        time.sleep(self.delay)
        with self.lock:
            self.active -= 1
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Reply):
            return step
        return Reply(step if isinstance(step, str) else json.dumps(step), *self.tokens)


def draw(folder, count):
    """Small images, each another one; the bytes differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = np.full((8, 8, 3), (number % 256, number // 256, 99), np.uint8)
        assert cv2.imwrite(str(folder / f"{number:03d}.png"), picture)
    return folder


@pytest.fixture
def images(tmp_path):
    return draw(tmp_path / "images", 5)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def flags(images, *more):
    out = str(images.parent / "a.jsonl")
    return ["--images", str(images), "--out", out, "--provider", "openai", "--model", "fake", *more]


def run(images, model, *more, pause=0.01):
    """main with a model in place of the provider: the exit code, a text if there was an error."""
    try:
        annotate.main(flags(images, "--workers", "1", *more), provider=model, pause=pause)
    except SystemExit as stop:
        return stop.code
    return 0


def rows_of(images):
    return [json.loads(line) for line in (images.parent / "a.jsonl").read_text(encoding="utf-8").splitlines()]


def statuses(images):
    return [row["status"] for row in rows_of(images)]


# --- the answer -------------------------------------------------------------------------------------------------


def answer(**fields):
    return json.dumps({"captions": ["a"], "text": "", "emotions": []} | fields)


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(ANSWER),
        f"```json\n{json.dumps(ANSWER, indent=2)}\n```",
        f"Here is the JSON you asked for:\n{json.dumps(ANSWER)}\nI hope {{this}} helps.",
        f'<think>{{"what": 1}} is no answer</think>{json.dumps(ANSWER)}',
    ],
)
def test_an_answer_is_found(raw):
    found = check_answer(raw)
    assert found[:3] == (("a cat looks at a dog",), "ONE DOES NOT", ("smug", "meh"))
    assert bool(found.notes) == (raw[0] != "{")


def test_emotions_come_as_words_or_persons():
    for emotions in (["Happy ", "sad"], [{"person1": "happy"}, {"person2": "SAD"}], {"person1": "happy", "b": "sad"}):
        assert check_answer(answer(emotions=emotions)).emotions == ("happy", "sad")
    assert check_answer(answer(emotions=["", "  "])).emotions == ()


def test_what_is_mended_is_noted():
    found = check_answer(answer(captions=[f"caption {n}" for n in range(40)] + ["", " "], mood="x"))
    assert found.captions == tuple(f"caption {n}" for n in range(30))
    assert [note for note in found.notes if "40 captions" in note] and [n for n in found.notes if "'mood'" in n]
    found = check_answer('{"captions": ["a\\u0000b\\ud83d c\\ud83d\\ude00", "\\u0000"], "text": null}')
    assert (found.captions, found.text, found.emotions) == (("ab c😀",), "", ())
    assert len(found.notes) == 3
    assert check_answer(answer()).notes == ()


def test_the_text_is_verbatim():
    assert check_answer(answer(text=" 我很累\n\n“ok” ")).text == " 我很累\n\n“ok” "


@pytest.mark.parametrize(
    "raw",
    [
        "", "hello", "[]", "3", "null", '"text"', '{"captions": ["a"', "[" * 5000, '{"a":' * 5000, "9" * 5000,
        answer(captions=[]), answer(captions=["", " "]), answer(captions=None), answer(captions="a"),
        answer(captions=[1]), answer(captions={"a": "b"}), answer(text=["a"]), answer(emotions="happy"),
        answer(emotions=[["happy"]]), answer(emotions=[{"person1": 1}]), "x" * 300_000,
        answer(captions=[], text="I'm sorry, I can't help with that"),
    ],
)  # fmt: skip
def test_a_bad_answer(raw):
    with pytest.raises(Failure) as caught:
        check_answer(raw)
    assert caught.value.status == "bad_answer"


@pytest.mark.parametrize(
    "said",
    [
        "I'm sorry, but I can't assist with that request.", "I can’t help with identifying people in images.",
        "Sorry, I cannot describe this image.", "I am unable to process this image.", "I won't provide captions.",
        "As an AI, I do not describe such images.", "抱歉，我无法描述这张图片。", "对不起，我不能提供帮助。",
        "很抱歉，我无法协助。", "我无法处理这个请求",
    ],
)  # fmt: skip
def test_a_refusal(said):
    for raw in (said, answer(captions=[said]), answer(captions=[], reason=said)):
        with pytest.raises(Failure) as caught:
            check_answer(raw)
        assert caught.value.status == "blocked"


def test_a_meme_about_refusals_is_no_refusal():
    for caption in (
        'A cat with the text "I can\'t help it".',
        "A robot says: as an AI, I cannot help.",
        "他说“我无法提供帮助”。",
    ):
        assert check_answer(answer(captions=[caption])).captions == (caption,)


def test_local_may_have_no_captions():
    assert check_answer(answer(captions=[]), needs_captions=False).captions == ()


def test_the_prompt_asks_for_what_the_schema_names():
    words = vocabulary(read_emotion_table())
    prompts = {language: default_prompt(language, words) for language in ("en", "zh")}
    for prompt in prompts.values():
        assert all(f'"{name}"' in prompt for name in ANSWER_SCHEMA["required"])
        assert all(word in prompt for word in words)
    assert "Chinese" in prompts["zh"] and "Chinese" not in prompts["en"]


# --- emotion words ----------------------------------------------------------------------------------------------


def test_the_table_that_comes_with_the_project():
    table = read_emotion_table()
    assert vocabulary(table) == (
        "happy", "sad", "angry", "fear", "surprise", "disgust", "contempt", "neutral", "excited", "smug", "confused",
        "frustrated", "bored", "embarrassed", "thoughtful",
    )  # fmt: skip
    assert map_emotions(["Happiness", " joy", "开心", "生气", "sad", "MEH", "none", "meh"], table) == (
        ("happy", "happy", "happy", "angry", "sad", "meh", "meh"),
        ["meh", "meh"],
    )


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffword,emotion\nJoy,good\nsad,bad\n\nblank face,\n", encoding="utf-8")
    table = read_emotion_table(path)
    assert vocabulary(table) == ("good", "bad")
    assert map_emotions(["joy", "good", "blank  face", "odd"], table) == (("good", "good", "odd"), ["odd"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", "line 1: found 'a,b', expected 'word,emotion'"),
        ("", "line 1: found ''"),
        ("word,emotion\n", "found no emotion"),
        ("word,emotion\njoy,happy\n,happy\n", "line 3: found an empty word"),
        ("word,emotion\njoy,happy\nJOY,sad\n", "line 3: found 'joy' again.*line 2"),
        ("word,emotion\njoy\n", "line 2: found 1 fields"),
        ("word,emotion\njoy,happy\nhappy,good\n", "line 2: found 'joy' -> 'happy', which line 3 maps to 'good'"),
        ('word,emotion\n"joy,happy\n', "line 2: broken quoting"),
        (b"word,emotion\n\xff,happy\n", "UTF-8"),
    ],
)
def test_a_bad_table(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_emotion_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_emotion_table(tmp_path / "none.csv")


# --- the file ---------------------------------------------------------------------------------------------------


def a_row(number, status="ok", **more):
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Annotation(image=f"图/{number}.png", sha256=sha256, status=status, **more)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    rows = [
        a_row(1, captions=("a\nb", "“中文” 😀\u2028"), text='"x"', emotions=("smug",), cost=0.001, input_tokens=5),
        a_row(2, "blocked", error="no"),
        a_row(3, notes=("n",)),
        a_row(2, "rate_limit", error="later"),
    ]
    with AnnotationFile(path) as file:
        for row in rows:
            file.append(row)
    assert list(read_annotations(path).values()) == [rows[0], rows[3], rows[2]]
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert lines[0]["captions"] == ["a\nb", "“中文” 😀\u2028"] and "error" not in lines[0] and "notes" not in lines[0]
    assert lines[1]["error"] == "no" and "captions" not in lines[1]
    assert "中文" in path.read_text(encoding="utf-8")


def test_wherever_the_last_line_is_torn_the_others_stay(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnnotationFile(path) as file:
        for number in range(2):
            file.append(a_row(number, captions=("中文 😀",)))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = 2 if length >= len(whole) - 1 else 1
        assert len(read_annotations(path)) == kept
        with AnnotationFile(path) as file:
            assert len(file.rows) == kept
            assert bool(file.repaired) == (length not in (first, len(whole)))
            file.append(a_row(7))
        assert [row.image for row in read_annotations(path).values()] == ["图/0.png", "图/1.png"][:kept] + ["图/7.png"]
    path.write_bytes(whole + b"\0" * 50 + b"\n")  # what some file systems leave after a power cut
    with AnnotationFile(path) as file:
        assert len(file.rows) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a', "line 2: "),
        ("[]", r"line 2: found \[\], expected a JSON object"),
        ("{}", "line 2: found no 'image', 'sha256', 'status'"),
        ('{"image": 3}', "line 2: 'image': found 3, expected a text"),
        (json.dumps(vars(a_row(1)) | {"captions": "a"}), "'captions': found \"a\", expected a list of texts"),
        (json.dumps(vars(a_row(1)) | {"cost": "a"}), "'cost': found \"a\", expected a number"),
        (json.dumps(vars(a_row(1)) | {"status": "good"}), "'status': found \"good\", expected one of ok, blocked"),
        (json.dumps(vars(a_row(1)) | {"sha256": "abc"}), "'sha256': found \"abc\", expected 64"),
    ],
)
def test_a_broken_line_elsewhere_is_an_error(tmp_path, line, message):
    path, row = tmp_path / "a.jsonl", json.dumps(vars(a_row(1)))
    path.write_text(f"{row}\n{line}\n{row}\n", encoding="utf-8")
    before = path.read_bytes()
    for read in (read_annotations, lambda path: AnnotationFile(path).__enter__()):
        with pytest.raises(InputError, match=message):
            read(path)
    assert path.read_bytes() == before


def test_a_last_line_that_is_json_but_no_row_is_not_cut_off(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(vars(a_row(1))) + "\n{}\n")
    with pytest.raises(InputError, match="line 2"), AnnotationFile(tmp_path / "a.jsonl"):
        pass


def test_no_row_and_no_file(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(InputError, match="no row"):
        read_annotations(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_annotations(tmp_path / "b.jsonl")


def test_two_cannot_write_one_file(tmp_path, images):
    pytest.importorskip("fcntl")
    with AnnotationFile(images.parent / "a.jsonl"):
        assert "another process is writing" in run(images, FakeModel())
    assert run(images, FakeModel()) == 0


# --- the images -------------------------------------------------------------------------------------------------


def test_which_files_are_images(tmp_path):
    folder = draw(tmp_path / "images" / "b", 1).parent
    png = (folder / "b" / "000.png").read_bytes()
    for name in ("a.JPG", "中文.webp", "no_suffix", ".hidden.png", ".git/x.png", "b/.DS_Store", "notes.txt", "B.tiff"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"BM is a text" if name == "notes.txt" else png)
    (tmp_path / "outside.png").write_bytes(png)
    (tmp_path / "other").mkdir()
    (folder / "leaves.png").symlink_to("../outside.png")
    (folder / "stays.png").symlink_to("b/000.png")
    (folder / "broken.png").symlink_to("none.png")
    (folder / "linked_folder").symlink_to(tmp_path, target_is_directory=True)
    paths, outside = find_images(folder)
    assert paths == ["B.tiff", "a.JPG", "b/000.png", "no_suffix", "stays.png", "中文.webp"]
    assert outside == ["leaves.png"]
    assert by_content(folder, paths, progress=False) == {hashlib.sha256(png).hexdigest(): "B.tiff"}
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "none")
    with pytest.raises(InputError, match="found no image"):
        find_images(tmp_path / "other")


def decoded(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def test_an_animation_gives_frames_from_first_to_last(tmp_path):
    colours = [(200, 20, 20), (20, 200, 20), (20, 20, 200), (200, 200, 20), (20, 200, 200)]
    frames = [Image.new("RGB", (24, 16), colour) for colour in colours]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    for most, expected in ((3, [0, 2, 4]), (1, [0]), (9, [0, 1, 2, 3, 4])):
        pictures = pictures_of(tmp_path / "a.gif", most, 1024)
        assert [decoded(each).shape for each in pictures] == [(16, 24, 3)] * len(expected)
        for index, picture in zip(expected, pictures, strict=True):
            assert np.abs(decoded(picture) - colours[index]).max() < 12


def test_large_images_are_made_smaller(tmp_path):
    rng = np.random.default_rng(0)
    picture = np.clip(np.linspace(0, 255, 3000)[None, :, None] + rng.normal(0, 20, (600, 3000, 3)), 0, 255)
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "a.png")
    (sent,) = pictures_of(tmp_path / "a.png", 3, 300)
    exact = picture[:600, :3000].reshape(60, 10, 300, 10, 3).mean((1, 3))  # what an area average gives
    assert decoded(sent).shape == (60, 300, 3) and np.abs(decoded(sent) - exact).mean() < 4
    Image.fromarray(np.zeros((3000, 1, 3), np.uint8)).save(tmp_path / "thin.png")
    assert decoded(pictures_of(tmp_path / "thin.png", 3, 300)[0]).shape == (300, 1, 3)
    Image.new("RGB", (20, 10)).save(tmp_path / "small.png")
    assert decoded(pictures_of(tmp_path / "small.png", 3, 300)[0]).shape == (10, 20, 3)


# --- the loop ---------------------------------------------------------------------------------------------------


def test_each_image_gets_a_row_and_is_asked_once(images, capsys):
    (images / "sub").mkdir()
    (images / "sub" / "copy.png").write_bytes((images / "000.png").read_bytes())
    model = FakeModel()
    assert run(images, model, "--price_input", "1", "--price_output", "2", "--language", "zh") == 0
    rows = rows_of(images)
    assert [row["image"] for row in rows] == [f"{number:03d}.png" for number in range(5)]
    for row in rows:
        assert row["sha256"] == hashlib.sha256((images / row["image"]).read_bytes()).hexdigest()
        assert row["emotions"] == ["smug", "meh"] and row["cost"] == pytest.approx(100e-6 + 20e-6)
        assert (row["provider"], row["model"], row["language"], len(row["prompt"])) == ("openai", "fake", "zh", 12)
        assert row["seconds"] >= 0 and "error" not in row
    printed = capsys.readouterr().out
    assert "6 images, 5 of them different" in printed and "meh (5)" in printed and "smug (" not in printed
    assert "500 tokens in, 50 out, $0.0006" in printed and "preprocess.build_community" in printed
    assert "--retry_failed" not in printed
    assert run(images, model, "--language", "zh") == 0
    assert len(model.requests) == 5 and rows_of(images) == rows


def test_failures_are_rows_and_are_retried_alone(images, capsys):
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    model = FakeModel(Failure("blocked", "SAFETY"), "no json", "still none", "{}", ANSWER)
    assert run(images, model, "--limit", "4") == 0
    assert statuses(images) == ["blocked", "bad_answer", "ok", "ok"]
    assert len(model.requests) == 6  # a bad answer is asked for once more
    capsys.readouterr()
    assert run(images, model) == 0
    assert statuses(images)[4:] == ["ok", "unreadable_image"]
    printed = capsys.readouterr().out
    assert "3 ok, 1 blocked, 1 bad_answer, 1 unreadable_image" in printed and "SAFETY" in printed
    (images / "new.png").write_bytes((images / "000.png").read_bytes() + b"\0")
    assert shlex.join(flags(images, "--workers", "1", "--retry_failed")) in printed
    assert run(images, FakeModel(), "--retry_failed") == 0
    assert [row["image"] for row in rows_of(images)[6:]] == ["000.png", "001.png", "broken.jpg"]
    assert Counter(row.status for row in read_annotations(images.parent / "a.jsonl").values()) == {
        "ok": 5,
        "unreadable_image": 1,
    }
    broken = rows_of(images)[-1]
    assert "corrupt" in broken["error"] and broken["input_tokens"] is None


def test_tokens_of_all_requests_count(images):
    model = FakeModel("no json", Failure("unavailable", "x", input_tokens=1000), ANSWER)
    assert run(images, model, "--limit", "1", "--price_input", "1", "--price_output", "1") == 0
    (row,) = rows_of(images)
    assert (row["input_tokens"], row["output_tokens"], row["cost"]) == (1200, 20, pytest.approx(0.00122))


def test_passing_failures_back_off(images):
    model = FakeModel(*[Failure("unavailable", "500")] * 5, ANSWER, *[Failure("rate_limit", "429")] * 6)
    assert run(images, model, "--limit", "3", pause=0.02) == 0
    assert statuses(images) == ["ok", "rate_limit", "ok"]
    waits = np.diff(model.times)
    for index, expected in [*enumerate((1, 2, 4, 8, 16)), *enumerate((1, 2, 4, 8, 16), start=6)]:
        assert 0.02 * expected * 0.75 <= waits[index] < 0.02 * expected * 1.25 + 0.1


def test_retry_after_is_honoured_unless_it_is_very_long(images):
    model = FakeModel(Failure("rate_limit", "429", retry_after=0.4), ANSWER, Failure("rate_limit", "429", 86400))
    assert run(images, model, "--limit", "2", pause=0.001) == 0
    assert model.times[1] - model.times[0] >= 0.4
    assert statuses(images) == ["ok", "rate_limit"] and len(model.requests) == 3


def test_on_a_rate_limit_all_threads_wait(images):
    draw(images, 12)
    model = FakeModel(ANSWER, ANSWER, Failure("rate_limit", "429", retry_after=0.5), delay=0.05)
    assert run(images, model, "--workers", "3") == 0
    assert statuses(images) == ["ok"] * 12
    limited = model.times[2] + 0.05
    assert not [at for at in model.times if limited + 0.04 < at < limited + 0.49]
    assert sum(at >= limited + 0.49 for at in model.times) >= 8


def test_as_many_requests_as_workers(images):
    draw(images, 20)
    model = FakeModel(delay=0.03)
    assert run(images, model, "--workers", "4") == 0
    assert model.most_active == 4


def test_it_stops_when_nothing_gets_an_answer(images, capsys):
    draw(images, 40)
    model = FakeModel(*[ANSWER] * 12, *[Failure("unavailable", "connection refused")] * 1000)
    assert "the last 10 images got no answer (unavailable): connection refused" in run(images, model, pause=0.0001)
    assert statuses(images) == ["ok"] * 12 + ["unavailable"] * 10
    assert "--retry_failed" in capsys.readouterr().out
    assert run(images, FakeModel(), "--retry_failed") == 0 and run(images, FakeModel()) == 0
    assert Counter(statuses(images)) == {"ok": 40, "unavailable": 10}


def test_it_stops_when_no_answer_can_be_used_from_the_start(images):
    draw(images, 40)
    assert "none of 10 answers could be used" in run(images, FakeModel(*["I see a cat"] * 80))
    assert statuses(images) == ["bad_answer"] * 10
    assert run(images, FakeModel(*["I see a cat"] * 4)) == 0  # some bad ones are no reason


def test_blocked_memes_and_unreadable_files_do_not_stop_it(images):
    draw(images, 25)
    for number in range(15):
        (images / f"a{number}.gif").write_bytes(b"GIF89a" + bytes([number]))
    assert run(images, FakeModel(*[Failure("blocked", "SAFETY")] * 25)) == 0
    assert Counter(statuses(images)) == {"blocked": 25, "unreadable_image": 15}


def test_an_input_error_of_the_provider_stops_it(images):
    model = FakeModel(ANSWER, InputError(f"wrong key {KEY}"))
    assert run(images, model) == "error: wrong key ***"
    assert statuses(images) == ["ok"]
    assert run(images, FakeModel(TypeError(f"odd {KEY}"))) == "error: 001.png: TypeError: odd ***"


def test_the_key_is_nowhere(images, capfd):
    model = FakeModel(
        Failure("blocked", f"a\n{'x' * 280}{KEY}"),  # where the message is shortened
        Failure("unavailable", KEY), json.dumps({"captions": ["a"], KEY: 1}), f"{KEY} is not JSON", KEY,
        InputError(KEY),
    )  # fmt: skip
    code = run(images, model)
    printed = capfd.readouterr()
    everything = code + printed.out + printed.err + (images.parent / "a.jsonl").read_text()
    assert statuses(images) == ["blocked", "ok", "bad_answer"]
    assert "***" in everything and KEY not in everything and KEY[:10] not in everything


def test_max_cost(images, capsys):
    prices = ("--price_input", "10000", "--price_output", "0")  # a dollar for each image
    assert run(images, FakeModel(), *prices, "--max_cost", "1.5") == annotate.NOT_FINISHED
    assert len(rows_of(images)) == 2
    assert "--max_cost 1.5 is reached" in capsys.readouterr().out
    assert run(images, FakeModel(), *prices, "--max_cost", "3.5") == annotate.NOT_FINISHED
    assert len(rows_of(images)) == 4  # what the file has cost counts too
    assert run(images, FakeModel(), *prices, "--max_cost", "30") == 0
    assert len(rows_of(images)) == 5


def test_max_cost_and_a_server_that_counts_nothing(images):
    prices = ("--price_input", "1", "--price_output", "1")
    model = FakeModel(tokens=(None, None))
    assert "--max_cost cannot be kept" in run(images, model, *prices, "--max_cost", "1")
    assert run(images, model, *prices) == 0
    assert {row["cost"] for row in rows_of(images)} == {None}


def test_another_model_or_prompt_is_not_mixed_in_unasked(images):
    assert run(images, FakeModel(), "--limit", "2") == 0
    prompt = images.parent / "prompt.txt"
    prompt.write_text("Describe it.", encoding="utf-8")
    for more in (["--prompt", str(prompt)], ["--language", "zh"], ["--model", "other"], ["--dry-run", "--model", "b"]):
        message = run(images, FakeModel(), *more)
        assert "holds rows of provider 'openai', model 'fake', prompt" in message and "--allow_mixed" in message
    assert len(rows_of(images)) == 2
    assert run(images, FakeModel(), "--model", "other", "--allow_mixed") == 0
    assert [row["model"] for row in rows_of(images)] == ["fake"] * 2 + ["other"] * 3


def test_dry_run(images, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run(images, None, "--dry-run") == 0
    assert not (images.parent / "a.jsonl").exists()
    printed = capsys.readouterr().out
    assert "0 ok, 0 failed, 5 left" in printed and "You describe a meme" in printed and '"captions": {' in printed
    assert run(images, FakeModel(Failure("blocked", "x")), "--limit", "3") == 0
    before = (images.parent / "a.jsonl").read_bytes() + b'{"torn'
    (images.parent / "a.jsonl").write_bytes(before)
    for more, count in (((), 2), (("--retry_failed",), 1)):
        capsys.readouterr()
        assert run(images, None, "--dry_run", *more) == 0
        printed = capsys.readouterr().out
        assert "2 ok, 1 failed, 2 left" in printed and f"would ask about {count}" in printed
    assert (images.parent / "a.jsonl").read_bytes() == before


def test_without_captions_for_local(images, capsys):
    model = FakeModel(*[{"captions": [], "text": "HELLO", "emotions": []}] * 5)
    model.name, model.model = "local", "ocr"
    base = ["--images", str(images), "--out", str(images.parent / "a.jsonl"), "--provider", "local"]
    annotate.main(base, provider=model)
    assert {(row["provider"], row["model"], row["text"]) for row in rows_of(images)} == {("local", "ocr", "HELLO")}
    printed = capsys.readouterr().out
    assert "weaker than a vision-language model" in printed
    assert "5 of 5 images have text: train with --caption_source text, or" in printed


def test_local_on_pictures_without_text(images, capsys):
    model = FakeModel(*[{"captions": [], "text": " ", "emotions": []}] * 5)
    model.name, model.model = "local", "ocr"
    annotate.main(["--images", str(images), "--out", str(images.parent / "a.jsonl"), "--provider", "local"], model)
    printed = capsys.readouterr().out
    assert "No image has text: train with --branches qi --caption_fusion none." in printed
    assert "--caption_source" not in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", ""], "--provider openai needs --model"),
        (["--provider", "local"], "--model has no effect with --provider local"),
        (["--max_cost", "1"], "--max_cost needs --price_input and --price_output"),
        (["--price_input", "1"], "given together"),
        (["--base_url", "localhost:8000"], "must be an address like"),
        (["--base_url", f"http://me:{KEY}@host/v1"], "must have no user, password or query"),
        (["--base_url", f"http://host/v1?key={KEY}"], "must have no user, password or query"),
        (["--images", "no/such"], "no such folder"),
        (["--prompt", "no/such"], "cannot be read"),
        (["--emotion_table", "no/such"], "cannot be read"),
        (["--provider", "gemini"], "set GEMINI_API_KEY or GOOGLE_API_KEY"),
    ],
)
def test_flags_that_do_not_go_together(images, more, message):
    found = run(images, None, *more)
    assert message in found and KEY not in found
    assert not (images.parent / "a.jsonl").exists()


@pytest.mark.parametrize("more", [["--workers", "0"], ["--max_cost", "nan"], ["--timeout", "0"], ["--limit", "x"]])
def test_numbers_out_of_range(images, more, capsys):
    assert run(images, None, *more) == 2
    assert f"argument {more[0]}" in capsys.readouterr().err


def test_openai_needs_a_key_or_a_server(images, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "needs OPENAI_API_KEY in the environment, or --base_url" in run(images, None)


# --- the program as a process -----------------------------------------------------------------------------------


def start(images, server, *more):
    command = [sys.executable, "-m", "preprocess.annotate", *flags(images, "--base_url", f"{server.url}/v1", *more)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_rows(images, process, count):
    out = images.parent / "a.jsonl"
    while not out.exists() or out.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def test_killed_and_started_again_every_image_has_one_row(images):
    draw(images, 60)
    rng = random.Random(0)
    with VlmServer(default=lambda request: Response(openai(json.dumps(ANSWER)), delay=0.02 * rng.random())) as server:
        for rows in (5, 25):
            process = start(images, server)
            wait_for_rows(images, process, rows)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        with open(images.parent / "a.jsonl", "ab") as file:
            file.write(b'{"image": "torn')
        process = start(images, server)
        printed = process.communicate()[0]
    assert process.returncode == 0 and "cut off a torn last line of 15 bytes" in printed
    rows = rows_of(images)
    assert sorted(row["image"] for row in rows) == [f"{number:03d}.png" for number in range(60)]
    assert {row["status"] for row in rows} == {"ok"}
    assert KEY not in printed + (images.parent / "a.jsonl").read_text()
    assert len(server.requests) <= 60 + 2 * 4  # at most what was under way is asked again


def test_ctrl_c_leaves_a_valid_file(images):
    draw(images, 60)
    hanging = threading.Event()

    def respond(request):
        if len(server.requests) > 20:
            hanging.set()
            return Response(openai(json.dumps(ANSWER)), delay=60)
        return Response(openai(json.dumps(ANSWER)))

    with VlmServer(default=respond) as server:
        process = start(images, server, "--workers", "2")
        assert hanging.wait(60)
        wait_for_rows(images, process, 19)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        printed = process.communicate()[0]
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert "Traceback" not in printed and "stopped by Ctrl-C" in printed and "to go on: python -m" in printed
    assert statuses(images) == ["ok"] * len(rows_of(images)) and 19 <= len(rows_of(images)) < 60


def test_the_table_is_a_csv_as_others_read_it():
    with open(ROOT / "preprocess" / "annotation" / "emotion_words.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["word"]: row["emotion"] for row in rows} == read_emotion_table()
