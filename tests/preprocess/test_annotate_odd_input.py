"""Answers, files and servers that behave oddly: none of them stops a run of `annotate` or spoils its file."""

# ruff: noqa: F811 (fixtures of another file)

import hashlib

import cv2
import numpy as np
import pytest

from preprocess.annotation.answer import Failure, check_answer
from preprocess.annotation.arguments import without_keys
from preprocess.annotation.asking import redacted
from preprocess.annotation.gemini import Gemini
from preprocess.annotation.pictures import pictures_of
from tests.preprocess.test_annotate import FakeModel, answer, environment, images, rows_of, run, statuses  # noqa: F401
from tests.preprocess.vlm_servers import Response, VlmServer, gemini_error, openai


@pytest.mark.parametrize(
    "script", [[Response(openai("\ud800 no"))] * 2, [Response(openai("", message={"refusal": "no \ud83d"}))]]
)
def test_half_a_character_in_a_failure(images, script):
    with VlmServer(script=script) as server:
        assert run(images, None, "--base_url", f"{server.url}/v1") == 0
    assert len(rows_of(images)) == 5 and statuses(images)[0] != "ok"


@pytest.mark.parametrize("content", [b"describe this meme\n", b"\xff\xd8\xff\x01", b"image,topic_id,query", b"{\n"])
def test_another_file_is_not_cut_off(images, content):
    (images.parent / "a.jsonl").write_bytes(content)
    assert "a.jsonl, line 1: " in run(images, FakeModel())
    assert (images.parent / "a.jsonl").read_bytes() == content


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_row_that_is_nested_too_deeply_is_named(images, ending):
    content = b'{"image": ' + b"[" * 200_000 + ending
    (images.parent / "a.jsonl").write_bytes(content)
    assert "a.jsonl, line 1: " in run(images, FakeModel())
    assert (images.parent / "a.jsonl").read_bytes() == content


@pytest.mark.parametrize("torn", [b"{", b'{"image": "a', b"\0\0\0"])
def test_a_torn_line_is_cut_off(images, torn):
    (images.parent / "a.jsonl").write_bytes(torn)
    assert run(images, FakeModel()) == 0 and len(rows_of(images)) == 5


def test_a_file_that_changes_after_it_was_hashed(images):
    class Changing(FakeModel):
        def answer(self, pictures, prompt):
            cv2.imwrite(str(images / "004.png"), np.full((8, 8, 3), 255, np.uint8))
            return super().answer(pictures, prompt)

    assert run(images, Changing()) == 0
    for row in rows_of(images):
        same = row["sha256"] == hashlib.sha256((images / row["image"]).read_bytes()).hexdigest()
        assert same == (row["status"] == "ok")
    assert run(images, FakeModel()) == 0 and statuses(images)[-1] == "ok" and len(rows_of(images)) == 6


@pytest.mark.parametrize(
    "said",
    [
        "我很抱歉，我无法描述这张图片。",
        "非常抱歉，我无法描述这张图片。",
        "抱歉，根据安全政策，我无法提供描述。",
        "由于内容政策限制，我无法描述该图片",
        "我無法協助處理這個請求",
        "I apologize, but I cannot describe this image.",
        "My apologies, I can't help with that.",
    ],
)
def test_a_refusal_in_a_caption(said):
    with pytest.raises(Failure) as caught:
        check_answer(answer(captions=[said]))
    assert caught.value.status == "blocked"


def test_raw_line_breaks_in_a_text():
    assert check_answer('{"captions": ["a"], "text": "TOP\nBOTTOM", "emotions": []}').text == "TOP\nBOTTOM"
    assert check_answer('x {"captions": ["a"], "text": "TOP\nBOTTOM", "emotions": []}').text == "TOP\nBOTTOM"


def test_a_picture_wider_than_a_jpeg_can_be(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 70000, 3), np.uint8))
    assert pictures_of(tmp_path / "a.png", 1, 100000)


def test_counts_of_tokens_that_are_none(images):
    usage = {"prompt_tokens": "3", "completion_tokens": None}
    with VlmServer(default=Response(openai() | {"usage": usage})) as server:
        assert run(images, None, "--base_url", f"{server.url}/v1") == 0
    assert {row["input_tokens"] for row in rows_of(images)} == {None}


def test_a_quota_without_a_name():
    refusal = gemini_error(429, "slow", "RESOURCE_EXHAUSTED", [{"violations": [{"quotaId": None}]}])
    with VlmServer(script=[refusal]) as server, pytest.raises(Failure) as caught:
        Gemini("m", "key", server.url).answer([b"x"], "p")
    assert caught.value.status == "rate_limit"


def test_a_word_in_place_of_a_key_is_not_masked(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert without_keys("requirements.txt") == "requirements.txt" == redacted("requirements.txt", "x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123456")
    assert without_keys("no sk-123456 here") == "no *** here" == redacted("no sk-123456 here", "sk-123456")
