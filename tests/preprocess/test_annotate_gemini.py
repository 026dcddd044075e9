"""Gemini through Google's SDK, against a server on this machine."""

import email.utils
import hashlib
import json
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from preprocess.annotation.answer import ANSWER_SCHEMA, Failure, default_prompt
from preprocess.annotation.gemini import Gemini, seconds
from preprocess.annotation.server_errors import plain, retry_after, status_error
from tests.preprocess.vlm_servers import ANSWER, Response, VlmServer, gemini, gemini_error
from util import InputError

KEY = "AIza-recognisable-secret"
PICTURE = bytes(range(256)) * 300  # every byte, so that both alphabets of base64 differ
GOOGLE = "type.googleapis.com/google.rpc."


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")  # of another program; must not matter
    monkeypatch.setenv("GOOGLE_API_KEY", "AIza-of-another-program")
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)


@pytest.fixture
def server():
    with VlmServer() as server:
        yield server


def provider(server, timeout=10.0):
    return Gemini("some-model", KEY, base_url=server.url, timeout=timeout)


def failure_of(server, *responses, timeout=10.0):
    """What one call raises; checks that the SDK asks once and that nothing shows the key."""
    server.script = list(responses)
    with pytest.raises((Failure, InputError)) as raised:
        provider(server, timeout).answer([PICTURE], "describe")
    assert len(server.requests) == 1
    message = str(raised.value)
    assert KEY not in "".join(traceback.format_exception(raised.value)) and "\n" not in message and len(message) < 500
    return raised.value


def test_the_request_and_the_reply(server):
    pictures = [PICTURE, b"\xff\xd8 a second frame"]
    prompt = default_prompt("zh", ("happy", "sad"))
    reply = provider(server).answer(pictures, prompt)
    (request,) = server.requests
    assert json.loads(reply.answer) == ANSWER
    assert (reply.input_tokens, reply.output_tokens) == (300, 40 + 7)  # with the thoughts
    assert request.model == "some-model" and request.path.endswith("/models/some-model:generateContent")
    assert request.headers["x-goog-api-key"] == KEY
    assert KEY not in request.path and KEY not in json.dumps(request.body)
    assert request.pictures == pictures and request.prompt == prompt
    config = request.body["generationConfig"]
    assert config["temperature"] == 0 and config["responseMimeType"] == "application/json"
    schema = config["responseSchema"]
    assert schema["type"] == "OBJECT" and schema["required"] == ANSWER_SCHEMA["required"]
    types = {name: (field["type"], field.get("items")) for name, field in schema["properties"].items()}
    assert types == {
        "captions": ("ARRAY", {"type": "STRING"}),
        "text": ("STRING", None),
        "emotions": ("ARRAY", {"type": "STRING"}),
    }


def test_an_answer_in_parts_is_joined_without_the_thoughts(server):
    parts = [{"text": "let me see", "thought": True}, {"text": '{"captions"'}, {"text": ": []}"}]
    server.script = [Response(gemini() | {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})]
    assert provider(server).answer([PICTURE], "describe").answer == '{"captions": []}'


def test_without_usage_the_tokens_are_unknown(server):
    server.script = [Response({"candidates": gemini()["candidates"]})]
    assert provider(server).answer([PICTURE], "describe")[1:] == (None, None)


@pytest.mark.parametrize("text", ["no JSON", '{"captions": 3}', "[]"])
def test_a_wrong_answer_is_handed_on_as_it_is(server, text):
    server.script = [Response(gemini(text))]
    assert provider(server).answer([PICTURE], "describe").answer == text


def test_several_threads_get_their_own_answers(server):
    server.default = lambda request: Response(gemini(hashlib.sha256(request.pictures[0]).hexdigest()), delay=0.05)
    asked, pictures = provider(server), [bytes([number]) * 1000 for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = [reply.answer for reply in pool.map(lambda picture: asked.answer([picture], "describe"), pictures)]
    assert answers == [hashlib.sha256(picture).hexdigest() for picture in pictures]
    assert server.most_active > 1


# --- error statuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, words",
    [
        (gemini_error(400, "API key not valid. Please pass a valid API key."), "GEMINI_API_KEY or GOOGLE_API_KEY"),
        (gemini_error(401, f"the key {KEY} is no token", "UNAUTHENTICATED"), "GEMINI_API_KEY or GOOGLE_API_KEY"),
        (gemini_error(403, f"the key {KEY} was reported as leaked", "PERMISSION_DENIED"), "GEMINI_API_KEY"),
        (gemini_error(404, "models/some-model is not found for API version v1", "NOT_FOUND"), "some-model.*--model"),
        (gemini_error(400, "User location is not supported", "FAILED_PRECONDITION"), "some-model.*User location"),
        (gemini_error(400, "JSON mode is not enabled for models/some-model"), "some-model.*JSON mode"),
        (gemini_error(400, "models/some-model does not support image input"), "a model that reads images"),
    ],
)
def test_what_every_image_would_meet_stops_the_run(server, response, words):
    error = failure_of(server, response)
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match=words):
        raise error


@pytest.mark.parametrize(
    "message, status",
    [
        ("Unable to process input image. Please retry", "unreadable_image"),
        ("Provided image is not valid.", "unreadable_image"),
        ("Request contains an invalid argument.", "bad_answer"),
        (f"see https://host/x?key={KEY}&y=1\nor {KEY}", "bad_answer"),
    ],
)
def test_a_400_about_one_request(server, message, status):
    assert failure_of(server, gemini_error(400, message)).status == status


def violated(quota):
    return {"@type": f"{GOOGLE}QuotaFailure", "violations": [{"quotaId": quota}]}


@pytest.mark.parametrize(
    "details, headers, wait",
    [
        ([], {}, None),
        ([], {"Retry-After": "7"}, 7),
        ([violated("RequestsPerMinutePerModel"), {"@type": f"{GOOGLE}RetryInfo", "retryDelay": "34.5s"}], {}, 34.5),
        ([{"@type": f"{GOOGLE}RetryInfo", "retryDelay": "soon"}], {"Retry-After": "7"}, 7),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(server, details, headers, wait):
    failure = failure_of(server, gemini_error(429, "quota exceeded", "RESOURCE_EXHAUSTED", details, headers))
    assert (failure.status, failure.retry_after) == ("rate_limit", wait)


def test_a_daily_quota_that_is_used_up_stops_the_run(server):
    details = [violated("RequestsPerMinute"), violated("GenerateRequestsPerDayPerProjectPerModel-FreeTier")]
    error = failure_of(server, gemini_error(429, "quota exceeded", "RESOURCE_EXHAUSTED", details))
    assert isinstance(error, InputError) and "daily quota for the model 'some-model'" in str(error)


@pytest.mark.parametrize(
    "response",
    [
        gemini_error(500, f"internal error with {KEY}", "INTERNAL"),
        gemini_error(503, "The model is overloaded.", "UNAVAILABLE", headers={"Retry-After": "3"}),
        Response(b"<html>bad\ngateway</html>", 502, {"Content-Type": "text/html"}),
        Response(gemini(), cut=True),
    ],
)
def test_what_passes(server, response):
    failure = failure_of(server, response)
    assert failure.status == "unavailable"
    assert failure.retry_after == (3 if response.status == 503 else None)


def test_a_slow_answer(server):
    began = time.monotonic()
    failure = failure_of(server, Response(gemini(), delay=20), timeout=0.3)
    assert failure.status == "unavailable" and "no answer within 0.3 s" in str(failure)
    assert time.monotonic() - began < 5


def test_nobody_listens():
    with VlmServer() as closed:
        pass
    with pytest.raises(Failure, match="Connection refused") as raised:
        provider(closed).answer([PICTURE], "describe")
    assert raised.value.status == "unavailable"


# --- answers that are none --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, status, words",
    [
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "blocked", "request: PROHIBITED_CONTENT"),
        ({"candidates": [], "promptFeedback": {"blockReason": "SAFETY"}}, "blocked", "SAFETY"),
        (gemini("", "SAFETY"), "blocked", "answer: SAFETY"),
        (gemini('{"capt', "RECITATION"), "blocked", "RECITATION"),
        (gemini("", "PROHIBITED_CONTENT"), "blocked", "PROHIBITED_CONTENT"),
        ({"candidates": []}, "bad_answer", "no candidates"),
        ({}, "bad_answer", "."),
        (gemini('{"captions": ["a', "MAX_TOKENS"), "bad_answer", "cut off: MAX_TOKENS"),
        (gemini("", "A_REASON_OF_NEXT_YEAR"), "bad_answer", "A_REASON_OF_NEXT_YEAR"),
        (gemini(""), "bad_answer", "empty"),
        (gemini(" \n"), "bad_answer", "empty"),
        ([], "bad_answer", "."),
        ({"candidates": [{"content": 3}]}, "bad_answer", "not in Gemini's format"),
        (b"<html>a login page</html>", "bad_answer", "not in Gemini's format"),
    ],
)
@pytest.mark.filterwarnings("ignore:A_REASON_OF_NEXT_YEAR")
def test_an_answer_without_text(server, body, status, words):
    failure = failure_of(server, Response(body))
    assert failure.status == status
    with pytest.raises(Failure, match=words):
        raise failure
    counted = "usageMetadata" in body if isinstance(body, dict) else False
    assert (failure.input_tokens, failure.output_tokens) == ((300, 47) if counted else (None, None))


# --- before any request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_no_key(key):
    with pytest.raises(InputError, match="GEMINI_API_KEY or GOOGLE_API_KEY is not set"):
        Gemini("some-model", key)


@pytest.mark.parametrize("key", ["secret\nsecond", "secret\u2026", "sec ret"])
def test_a_key_that_no_header_can_hold_is_not_shown(key):
    with pytest.raises(InputError, match="GEMINI_API_KEY or GOOGLE_API_KEY holds") as raised:
        Gemini("some-model", key)
    assert "sec" not in str(raised.value)


def test_space_around_a_key_is_left_out(server):
    asked = Gemini("some-model", f" {KEY}\n", base_url=server.url)
    asked.answer([PICTURE], "describe")
    assert server.requests[0].headers["x-goog-api-key"] == asked.secret == KEY


@pytest.mark.parametrize("model", ["", "a model", "../files", "model?key=x"])
def test_names_that_are_none(model):
    with pytest.raises(InputError, match="is no name of a Gemini model"):
        Gemini(model, KEY)


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://host", "http://host:port/?key=hidden"])
def test_addresses_that_are_none(base_url):
    with pytest.raises(InputError, match="--base_url") as raised:
        Gemini("some-model", KEY, base_url)
    assert "hidden" not in str(raised.value)


def test_a_missing_sdk_names_the_line_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.genai", None)
    monkeypatch.delattr("google.genai", raising=False)
    with pytest.raises(InputError, match="pip install -r requirements-annotate.txt"):
        Gemini("some-model", KEY)


# --- small things both network providers use --------------------------------------------------------------------


def test_messages_are_one_line_without_secrets():
    assert plain(f"a\n b {KEY}.", KEY) == "a b ***."
    assert plain("at http://user:pass@host/path?key=x#y, then", None) == "at http://host/path then"
    assert len(plain("x" * 5000, None)) == 300


def test_a_model_that_is_called_image_does_not_make_every_error_one_about_the_image():
    assert status_error(400, "image-2: invalid argument", "image-2", "KEY").status == "bad_answer"
    assert status_error(400, "image-2: invalid image", "image-2", "KEY").status == "unreadable_image"


def test_waits():
    later = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert 55 < retry_after({"retry-after": later}) <= 60
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "later"}) is retry_after({}) is retry_after(None) is None
    assert (seconds("34s"), seconds("0.25s"), seconds("34"), seconds(None)) == (34, 0.25, None, None)
