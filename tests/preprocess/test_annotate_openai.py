"""An OpenAI-compatible server through the openai SDK, against a server on this machine."""

import hashlib
import json
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from preprocess.annotation.answer import ANSWER_SCHEMA, Failure, check_answer, default_prompt
from preprocess.annotation.openai_compatible import OpenAICompatible
from tests.preprocess.vlm_servers import ANSWER, Response, VlmServer, openai, openai_error
from util import InputError

KEY = "sk-recognisable-secret"
PICTURE = bytes(range(256)) * 300


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-program")


@pytest.fixture
def server():
    with VlmServer() as server:
        yield server


def provider(server, key=KEY, timeout=10.0):
    return OpenAICompatible("some-model", key, f"{server.url}/v1", timeout)


def failure_of(server, *responses, timeout=10.0):
    """What one call raises; checks that the SDK asks once and that nothing shows the key."""
    server.script = list(responses)
    with pytest.raises((Failure, InputError)) as raised:
        provider(server, timeout=timeout).answer([PICTURE], "describe")
    assert len(server.requests) == len(responses)
    message = str(raised.value)
    assert KEY not in "".join(traceback.format_exception(raised.value)) and "\n" not in message and len(message) < 500
    return raised.value


def test_the_request_and_the_reply(server):
    pictures = [PICTURE, b"\xff\xd8 a second frame"]
    prompt = default_prompt("zh", ("happy", "sad"))
    reply = provider(server).answer(pictures, prompt)
    (request,) = server.requests
    assert json.loads(reply.answer) == ANSWER and (reply.input_tokens, reply.output_tokens) == (300, 47)
    assert request.path == "/v1/chat/completions" and request.model == "some-model"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(request.body)
    assert request.pictures == pictures and request.prompt == prompt
    assert request.body["temperature"] == 0
    assert request.body["response_format"]["type"] == "json_schema"
    asked = request.body["response_format"]["json_schema"]
    assert asked["strict"] is True and asked["schema"] == ANSWER_SCHEMA and asked["name"]


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_none_is_taken_from_elsewhere(server, key):
    asked = provider(server, key)
    asked.answer([PICTURE], "describe")
    assert server.requests[0].headers["Authorization"] == "Bearer none"
    assert asked.secret is None


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_without_usage_the_tokens_are_unknown(server, usage):
    server.script = [Response(openai(usage=usage))]
    assert provider(server).answer([PICTURE], "describe")[1:] == (None, None)


@pytest.mark.parametrize("text", ["no JSON", '{"captions": 3}', "[]"])
def test_a_wrong_answer_is_handed_on_as_it_is(server, text):
    server.script = [Response(openai(text))]
    assert provider(server).answer([PICTURE], "describe").answer == text


def test_several_threads_get_their_own_answers(server):
    server.default = lambda request: Response(openai(hashlib.sha256(request.pictures[0]).hexdigest()), delay=0.05)
    asked, pictures = provider(server), [bytes([number]) * 1000 for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = [reply.answer for reply in pool.map(lambda picture: asked.answer([picture], "describe"), pictures)]
    assert answers == [hashlib.sha256(picture).hexdigest() for picture in pictures]
    assert server.most_active > 1


# --- options that a server refuses ------------------------------------------------------------------------------


def refusing(*names):
    """A server's function that answers 400 to a request with one of the options."""

    def respond(request):
        if "temperature" in names and "temperature" in request.body:
            message = "Unsupported value: 'temperature' does not support 0 with this model."
            return openai_error(400, message, "unsupported_value", "temperature")
        if request.body["response_format"]["type"] in names:
            return openai_error(400, "This response_format type is unavailable now")
        return Response(openai(), delay=0.05)

    return respond


def test_a_server_without_schemas_gets_the_schema_in_words(server, capfd):
    server.default = refusing("json_schema")
    asked = provider(server)
    for _ in range(2):
        assert json.loads(asked.answer([PICTURE], "describe").answer) == ANSWER
    kinds = [request.body["response_format"]["type"] for request in server.requests]
    assert kinds == ["json_schema", "json_object", "json_object"]
    for request in server.requests[1:]:
        assert request.prompt.startswith("describe\n") and json.dumps(ANSWER_SCHEMA) in request.prompt
        assert request.body["temperature"] == 0 and request.pictures == [PICTURE]
    assert capfd.readouterr().err == "some-model does not take a JSON schema: asking without it\n"


def test_both_options_are_refused_to_several_threads_and_said_once(server, capfd):
    server.default = refusing("temperature", "json_schema")
    asked = provider(server)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: asked.answer([PICTURE], "describe").answer, range(8)))
    assert [json.loads(answer) for answer in answers] == [ANSWER] * 8
    last = server.requests[-1].body
    assert "temperature" not in last and last["response_format"] == {"type": "json_object"}
    assert sorted(capfd.readouterr().err.splitlines()) == [
        "some-model does not take a JSON schema: asking without it",
        "some-model does not take temperature 0: asking without it",
    ]


def test_a_server_without_any_format_stops_the_run(server):
    server.default = refusing("json_schema", "json_object")
    with pytest.raises(InputError, match="'some-model' takes no response_format: This response_format"):
        provider(server).answer([PICTURE], "describe")
    assert len(server.requests) == 2


# --- error statuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, words",
    [
        (openai_error(401, f"Incorrect API key provided: {KEY}", "invalid_api_key"), "OPENAI_API_KEY"),
        (openai_error(402, "Insufficient Balance"), "Insufficient Balance.*OPENAI_API_KEY"),
        (openai_error(403, f"the project of {KEY} has no access to some-model"), "some-model.*OPENAI_API_KEY"),
        (openai_error(404, "The model `some-model` does not exist."), "some-model.*--model and --base_url"),
        (Response({"object": "error", "message": "no model", "code": 404}, 404), "no model.*--base_url"),
        (openai_error(429, "You exceeded your current quota", "insufficient_quota"), "quota.*OPENAI_API_KEY"),
        (openai_error(400, "some-model is not a multimodal model"), "a model that reads images"),
        (openai_error(500, "image input is not supported"), "a model that reads images"),
    ],
)
def test_what_every_image_would_meet_stops_the_run(server, response, words):
    error = failure_of(server, response)
    assert isinstance(error, InputError)
    with pytest.raises(InputError, match=words):
        raise error


@pytest.mark.parametrize(
    "response, status",
    [
        (openai_error(400, "You uploaded an unsupported image.", "image_parse_error"), "unreadable_image"),
        (openai_error(400, "cannot identify image file"), "unreadable_image"),
        (Response(b"too large", 413, {"Content-Type": "text/plain"}), "unreadable_image"),
        (openai_error(400, "This model's maximum context length is 4096 tokens"), "bad_answer"),
        (Response({"error": f"no\n{KEY} https://host/?k={KEY}"}, 400), "bad_answer"),
        (Response({"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, 422), "bad_answer"),
        (openai_error(400, "The prompt was filtered", "content_filter"), "blocked"),
        (openai_error(403, "your input was flagged for violence"), "blocked"),
        (openai_error(500, f"internal error with {KEY}"), "unavailable"),
        (openai_error(503, "overloaded"), "unavailable"),
        (Response(b"<html>bad\ngateway</html>", 502, {"Content-Type": "text/html"}), "unavailable"),
        (Response(openai(), cut=True), "unavailable"),
    ],
)
def test_what_stops_one_image(server, response, status):
    failure = failure_of(server, response)
    assert (failure.status, failure.retry_after) == (status, None)


@pytest.mark.parametrize("headers, wait", [({}, None), ({"Retry-After": "7"}, 7), ({"Retry-After": "soon"}, None)])
@pytest.mark.parametrize("code, status", [(429, "rate_limit"), (503, "unavailable")])
def test_how_long_to_wait(server, code, status, headers, wait):
    failure = failure_of(server, openai_error(code, "slow down", "rate_limit_exceeded", headers=headers))
    assert (failure.status, failure.retry_after) == (status, wait)


def test_a_slow_answer(server):
    began = time.monotonic()
    failure = failure_of(server, Response(openai(), delay=20), timeout=0.3)
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
        (
            openai(message={"content": None, "refusal": f"I can't\nhelp with {KEY}"}),
            "blocked",
            "declines: I can't help",
        ),
        (openai("", "content_filter"), "blocked", "content_filter"),
        (openai(choices=[{"finish_reason": "content_filter", "index": 0}]), "blocked", "content_filter"),
        (openai('{"captions": ["a', "length"), "bad_answer", "cut off: length"),
        (openai(choices=[]), "bad_answer", "no choices"),
        (openai(choices=None), "bad_answer", "no choices"),
        (openai(""), "bad_answer", "empty"),
        (openai(message={"content": None}), "bad_answer", "empty"),
        ({}, "bad_answer", "no choices"),
        ([], "bad_answer", "no choices"),
        (b"{", "bad_answer", "not JSON"),
        ({"error": {"code": 429, "message": f"slow down {KEY}"}}, "rate_limit", "429.*slow down"),
        ({"error": {"code": "upstream", "message": "provider returned error"}}, "unavailable", "provider returned"),
    ],
)
def test_an_answer_without_text(server, body, status, words):
    failure = failure_of(server, Response(body))
    assert failure.status == status
    with pytest.raises(Failure, match=words):
        raise failure
    counted = "usage" in body if isinstance(body, dict) else False
    assert (failure.input_tokens, failure.output_tokens) == ((300, 47) if counted else (None, None))


def test_a_web_page_instead_of_an_answer(server):
    failure = failure_of(server, Response(b"<html>a login page</html>", headers={"Content-Type": "text/html"}))
    assert failure.status == "bad_answer" and "login page" in str(failure)


# --- where else servers put an answer ---------------------------------------------------------------------------


JSON = json.dumps(ANSWER)
THOUGHT = "Let me see. There is a cat. {captions} are wanted."


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": JSON}]},
        {"content": [{"type": "text", "text": JSON[:20]}, {"type": "output_text", "text": JSON[20:]}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": JSON},
            ]
        },
        {"content": [{"type": "reasoning", "text": "hm"}, JSON]},
        {"content": [{"type": "text", "text": {"value": JSON}}]},
        {"content": {"type": "text", "text": JSON}},
        {"content": ANSWER},
        {"content": None, "reasoning_content": f"{THOUGHT} {JSON}"},
        {"content": "", "reasoning": JSON},
        {"content": " ", "reasoning_details": [{"type": "reasoning.text", "text": JSON}]},
        {"content": JSON, "reasoning_content": THOUGHT},
        {"content": json.dumps(JSON)},
        {"content": json.dumps(json.dumps(JSON))},
        {"content": f"[{JSON}]"},
        {"content": json.dumps([JSON])},
        {"content": f"```json\n[{JSON}]\n```"},
    ],
)
def test_where_servers_put_an_answer(server, message):
    server.script = [Response(openai(message=message))]
    reply = provider(server).answer([PICTURE], "describe")
    found = check_answer(reply.answer)
    assert (found.captions, found.text, found.emotions) == (("a cat looks at a dog",), "ONE DOES NOT", ("smug",))
    assert (reply.input_tokens, reply.output_tokens) == (300, 47)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_without_an_answer(server, field):
    failure = failure_of(server, Response(openai(message={"content": None, field: THOUGHT})))
    assert failure.status == "bad_answer"
    assert f"only thoughts ({field}): the model's thinking is on; turn it off at the server" in str(failure)
    server.requests.clear()
    failure = failure_of(server, Response(openai("", "length", message={field: f"{THOUGHT} {JSON[:30]}"})))
    assert "was cut off: length" in str(failure) and "thinking is on" in str(failure)


@pytest.mark.parametrize(
    "message, status, words",
    [
        ({"content": [{"type": "refusal", "refusal": "I cannot help"}]}, "blocked", "declines: I cannot help"),
        ({"content": []}, "bad_answer", "empty"),
        ({"content": [{"type": "image"}, 7, None]}, "bad_answer", "empty"),
        ({"content": 7}, "bad_answer", "empty"),
        ({"content": None, "reasoning_content": 7}, "bad_answer", "empty"),
    ],
)
def test_parts_without_an_answer(server, message, status, words):
    failure = failure_of(server, Response(openai(message=message)))
    assert failure.status == status and words in str(failure)


def test_a_list_of_texts_is_no_answer():
    for raw in ('["a cat", "a dog"]', "[]", "[[]]", json.dumps(json.dumps("a cat")), json.dumps("[" * 3000)):
        with pytest.raises(Failure) as caught:
            check_answer(raw)
        assert caught.value.status == "bad_answer"


def test_of_several_objects_the_last_one_with_captions_counts_and_it_is_noted():
    found = check_answer(f'[{{"thought": "hm"}}, {JSON}]')
    assert found.captions == ("a cat looks at a dog",) and found.notes == ("the JSON object stood in a list",)
    assert check_answer(json.dumps(JSON)).notes == ("the JSON object stood in a JSON text",)


@pytest.mark.parametrize("status", [400, 200])
def test_an_error_in_a_list(server, status):
    """As Google's OpenAI-compatible server answers."""
    failure = failure_of(server, Response([{"error": {"code": 400, "message": "no such picture"}}], status))
    assert failure.status == "unreadable_image" and "no such picture" in str(failure) and "error" not in str(failure)


# --- before any request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["secret\nsecond", "secret\u2026", "sec ret"])
def test_a_key_that_no_header_can_hold_is_not_shown(key):
    with pytest.raises(InputError, match="OPENAI_API_KEY holds") as raised:
        OpenAICompatible("some-model", key, None)
    assert "sec" not in str(raised.value)


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "http://host:port/?key=hidden"])
def test_addresses_that_are_none(base_url):
    with pytest.raises(InputError, match="--base_url") as raised:
        OpenAICompatible("some-model", KEY, base_url)
    assert "hidden" not in str(raised.value)


def test_a_missing_sdk_names_the_line_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match="pip install -r requirements-annotate.txt"):
        OpenAICompatible("some-model", KEY, None)
