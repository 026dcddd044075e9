"""Answers, files and servers that behave oddly: none of them stops a run of `annotate` or spoils its file."""

# ruff: noqa: F811 (fixtures of another file)

import gzip
import hashlib
import itertools
import json
import time

import cv2
import numpy as np
import pytest

from preprocess.annotation.annotation_file import read_annotations
from preprocess.annotation.answer import Failure, check_answer
from preprocess.annotation.arguments import without_keys
from preprocess.annotation.asking import redacted
from preprocess.annotation.gemini import Gemini
from preprocess.annotation.openai_compatible import OpenAICompatible
from preprocess.annotation.pictures import pictures_of
from tests.preprocess.test_annotate import (  # noqa: F401
    KEY,
    FakeModel,
    a_row,
    answer,
    environment,
    images,
    rows_of,
    run,
    statuses,
)
from tests.preprocess.vlm_servers import ANSWER, Response, VlmServer, gemini, gemini_error, openai
from util import InputError


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


# --- answers without an end ---------------------------------------------------------------------------------------

PROVIDERS = {
    "openai": lambda server, timeout: OpenAICompatible("m", KEY, f"{server.url}/v1", timeout),
    "gemini": lambda server, timeout: Gemini("m", KEY, server.url, timeout),
}
BOTH = pytest.mark.parametrize("name", PROVIDERS)


def failure_of(name, response, timeout=10.0):
    """(Failure, seconds, the server) of one request that gets `response`."""
    with VlmServer(script=[response]) as server:
        began = time.monotonic()
        with pytest.raises(Failure) as caught:
            PROVIDERS[name](server, timeout).answer([b"\xff\xd8"], "describe")
        return caught.value, time.monotonic() - began, server


@BOTH
@pytest.mark.parametrize("status", [200, 500])
def test_an_endless_answer(name, status):
    failure, seconds, server = failure_of(name, Response(None, status, pieces=itertools.repeat(b" " * 50_000)))
    assert failure.status == "bad_answer" and "more than 2,097,152 bytes" in str(failure)
    assert seconds < 5 and server.sent < 20e6  # what lies in the sockets' buffers


@BOTH
def test_an_answer_that_drips(name):
    failure, seconds, _ = failure_of(name, Response(None, pieces=itertools.repeat(b" "), pause=0.05), timeout=0.4)
    assert failure.status == "unavailable" and str(failure) == "no answer within 0.4 s" and seconds < 2


@BOTH
def test_a_head_that_drips(name):
    head = Response(None, pieces=itertools.repeat(b"X-More: 1\r\n"), pause=0.05, slow_head=True)
    failure, seconds, _ = failure_of(name, head, timeout=0.4)
    assert failure.status == "unavailable" and str(failure) == "no answer within 0.4 s" and seconds < 2


@BOTH
@pytest.mark.parametrize("encoding", ["gzip", "GZIP, gzip", "deflate"])
def test_a_bomb(name, encoding):
    bomb = gzip.compress(b" " * 100_000_000, 1)
    failure, *_ = failure_of(name, Response(bomb, headers={"Content-Encoding": encoding}))
    assert failure.status == "bad_answer" and "is compressed" in str(failure)


@BOTH
def test_no_compression_is_asked_for(name):
    with VlmServer() as server:
        assert json.loads(PROVIDERS[name](server, 10).answer([b"x"], "p").answer) == ANSWER
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


@BOTH
@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"candidates":' * 10_000],
)
def test_deep_nesting_in_a_servers_answer(name, body):
    failure, *_ = failure_of(name, Response(body))
    assert failure.status == "bad_answer"


@pytest.mark.parametrize("depth", [300, 600, 900, 950, 990, 5000])
def test_deep_nesting_in_a_models_answer(depth):
    deep = "[" * depth + "]" * depth
    for raw in (f'{{"captions": ["a"], "text": {deep}}}', f'{{"captions": {deep}}}', f'{{"emotions": {deep}}}', deep,
                f'{{"captions": ["I cannot describe this image"], "x": {deep}}}'):  # fmt: skip
        with pytest.raises(Failure):
            check_answer(raw)


def test_a_deep_answer_is_one_bad_answer(images):
    deep = Response(b'{"choices":' + b"[" * 100_000)
    with VlmServer(script=[deep, deep]) as server:
        assert run(images, None, "--base_url", f"{server.url}/v1") == 0
    assert statuses(images) == ["bad_answer", "ok", "ok", "ok", "ok"]


@pytest.mark.parametrize("raw", ['{"a":' * 33_000, "{" * 200_000, '{"captions":[' * 15_000])
def test_a_long_answer_of_openings_takes_no_long_time(raw):
    began = time.process_time()
    with pytest.raises(Failure):
        check_answer(raw)
    assert time.process_time() - began < 2


# --- keys, counts and rows ----------------------------------------------------------------------------------------


def test_a_key_that_is_echoed_in_an_answer_is_masked(images):
    for echoed in (KEY, KEY.upper(), KEY[:5] + "\0" + KEY[5:]):
        said = {"captions": [f"a cat with {echoed}"], "text": echoed, "emotions": [f"happy {echoed}"]}
        for wrapped in (json.dumps(said), json.dumps(said).replace("secret", "\\u0073ecret")):
            (images.parent / "a.jsonl").unlink(missing_ok=True)
            assert run(images, FakeModel(*[wrapped] * 5)) == 0
            assert KEY.lower() not in (images.parent / "a.jsonl").read_text().lower()
            row = rows_of(images)[0]
            assert (row["captions"], row["text"], row["emotions"]) == (["a cat with ***"], "***", ["happy ***"])
            assert "masked the key" in row["notes"]


@pytest.mark.parametrize("count", [-5, 10**400, 1.5])
def test_counts_of_tokens_that_cannot_be(images, count):
    usage = {"prompt_tokens": count, "completion_tokens": 3}
    with VlmServer(default=Response(openai() | {"usage": usage})) as server:
        assert run(images, None, "--base_url", f"{server.url}/v1", "--price_input", "1", "--price_output", "1") == 0
    assert {(row["status"], row["input_tokens"], row["output_tokens"]) for row in rows_of(images)} == {("ok", None, 3)}
    usage = {"promptTokenCount": count, "candidatesTokenCount": 3}
    with VlmServer(script=[Response(gemini() | {"usageMetadata": usage})]) as server:
        try:
            assert PROVIDERS["gemini"](server, 10).answer([b"x"], "p")[1:] == (None, 3)
        except Failure as failure:  # the SDK takes no such number
            assert failure.status == "bad_answer"


@pytest.mark.parametrize("name", ["cost", "seconds", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "-1", "1e999", "1" + "0" * 400])
def test_a_number_in_a_row_that_is_none(tmp_path, name, number):
    row = json.dumps(vars(a_row(1)) | {name: "HERE"}).replace('"HERE"', number)
    (tmp_path / "a.jsonl").write_text(f"{row}\n")
    with pytest.raises(InputError, match=f"line 1: '{name}': found .*, expected a number from 0 to "):
        read_annotations(tmp_path / "a.jsonl")


@pytest.mark.parametrize("last", [True, False])
def test_deep_nesting_in_a_row(tmp_path, last):
    row = json.dumps(vars(a_row(1)))
    deep = '{"image": ' + "[" * 100_000
    (tmp_path / "a.jsonl").write_text(f"{row}\n{deep}\n" + f"{row}\n" * (not last))
    with pytest.raises(InputError, match="line 2: found .*, expected a JSON object as preprocess.annotate writes it"):
        read_annotations(tmp_path / "a.jsonl")
