"""gemini-batch and openai-batch, against a server on this machine that speaks both wire formats."""

import hashlib
import json
import os

import pytest

from preprocess import annotate
from preprocess.annotation import batches
from preprocess.annotation.annotation_file import last_rows, read_rows
from preprocess.annotation.gemini_batch import GeminiBatch
from preprocess.annotation.openai_batch import OpenAIBatch
from tests.preprocess.batch_servers import BatchServer
from tests.preprocess.test_annotate import draw
from tests.preprocess.vlm_servers import Response, gemini, openai

KEY = "sk-recognisable-secret"
ANSWERS = {"gemini-batch": gemini, "openai-batch": openai}


@pytest.fixture(params=ANSWERS)
def kind(request, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEMINI_API_KEY" if request.param == "gemini-batch" else "OPENAI_API_KEY", KEY)
    return request.param


@pytest.fixture
def server():
    with BatchServer() as server:
        yield server


@pytest.fixture
def images(tmp_path):
    return draw(tmp_path / "images", 7)


def out(images):
    return images.parent / "a.jsonl"


def run(kind, server, images, *more):
    """The exit code, a text if there was an error."""
    url = server.url if kind == "gemini-batch" else f"{server.url}/v1"
    argv = ["--images", str(images), "--out", str(out(images)), "--provider", kind, "--model", "some-model"]
    try:
        annotate.main([*argv, "--base_url", url, "--poll", "0.01", *more], pause=0.01)
    except SystemExit as stop:
        return stop.code
    return 0


def rows(images):
    return last_rows(read_rows(out(images))[0])


def sums(images):
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in images.iterdir()}


def test_a_folder_is_annotated_by_batches_as_one_by_one(kind, server, images, capfd, monkeypatch):
    """The first image alone, to see that it works; each other one once, with the request that it would have had."""
    monkeypatch.setattr(GeminiBatch, "most_requests", 4)
    monkeypatch.setattr(OpenAIBatch, "most_requests", 4)
    server.looks = 3
    assert run(kind, server, images, "--price_input", "1", "--price_output", "2") == 0
    assert [len(batch) for batch in server.batches] == [4, 2] and len(server.requests) == 1
    found = rows(images)
    assert {row.sha256: row.image for row in found.values()} == sums(images)
    assert all(row.status == "ok" and row.captions == ("a cat looks at a dog",) for row in found.values())
    assert all((row.input_tokens, row.output_tokens) == (300, 47) for row in found.values())
    assert all(row.cost == pytest.approx(394e-6) for row in found.values())
    assert {row.provider for row in found.values()} == {kind.removesuffix("-batch")}
    [alone] = server.requests
    for key, request in sum(server.batches, []):
        assert key in found and request.prompt == alone.prompt
        assert len(request.pictures) == 1 and request.pictures != alone.pictures
        assert comparable(request.body) == comparable(alone.body)
    assert not batches.file_of(out(images)).exists()
    assert set(server.deleted) >= {job["file"] for job in server.jobs.values()}, "uploads do not stay"
    assert KEY not in "".join(capfd.readouterr()) + out(images).read_text()
    assert run(kind, server, images) == 0 and len(server.jobs) == 2 and len(server.requests) == 1
    assert sorted(os.listdir(images.parent)) == ["a.jsonl", "images"]


def comparable(body):
    """A request's body but for the picture and the spelling of names, in which versions of the SDK differ."""
    if isinstance(body, dict):
        found = {name.lower().replace("_", ""): comparable(value) for name, value in body.items()}
        return {name: value for name, value in found.items() if name not in ("data", "url")}
    return [comparable(each) for each in body] if isinstance(body, list) else body


def test_each_failure_is_that_of_its_image(kind, server, images):
    blocked = gemini("", "SAFETY") if kind == "gemini-batch" else openai("", "content_filter")
    answer = ANSWERS[kind]
    limit = (8 if kind == "gemini-batch" else 429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
    server.answers = [answer("no JSON"), blocked, limit, None, "right"]
    assert run(kind, server, images) == 3  # one image has no answer
    statuses = sorted(row.status for row in rows(images).values())
    assert statuses == ["bad_answer", "blocked", "ok", "ok", "ok", "rate_limit"]
    assert run(kind, server, images) == 0  # it is the one that is left, and is asked alone
    assert len(rows(images)) == 7 and len(server.jobs) == 1 and len(server.requests) == 2
    assert run(kind, server, images, "--retry_failed") == 0
    assert {row.status for row in rows(images).values()} == {"ok"}
    assert [len(batch) for batch in server.batches] == [6, 2]


@pytest.mark.parametrize(
    "place", ["before it is submitted", "after it is submitted", "while waiting", "while collecting"]
)
def test_an_interrupted_call_goes_on_and_asks_nothing_twice(kind, server, images, place, monkeypatch):
    provider = GeminiBatch if kind == "gemini-batch" else OpenAIBatch
    submit, row = provider.submit, annotate.Asker.row

    def submit_and_stop(*arguments):
        if place == "after it is submitted":
            submit(*arguments)
        raise KeyboardInterrupt

    def stop(*_):
        raise KeyboardInterrupt

    calls = []

    def row_and_stop(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return row(*arguments)

    with monkeypatch.context() as patch:
        if place.endswith("submitted"):
            patch.setattr(provider, "submit", submit_and_stop)
        elif place == "while waiting":
            patch.setattr(provider, "look", stop)
        else:
            patch.setattr(annotate.Asker, "row", row_and_stop)
        assert run(kind, server, images) == 130
    noted = json.loads(batches.file_of(out(images)).read_text())["batches"]
    assert [len(batch["images"]) for batch in noted] == [6] and KEY not in json.dumps(noted)
    assert run(kind, server, images) == 0
    every = read_rows(out(images))[0]
    assert len(every) == len(rows(images)) == 7 and {each.status for each in every} == {"ok"}
    asked_again = place == "before it is submitted"
    assert len(server.jobs) == 1 and len(server.requests) == 1 + asked_again
    assert not batches.file_of(out(images)).exists()


def test_a_batch_that_fails_as_a_whole_ends_the_call(kind, server, images):
    server.end = ("invalid_json_line", f"line 3 is broken, see https://x/y?key={KEY}")
    error = run(kind, server, images)
    assert "batch" in error and "has failed" in error and KEY not in error
    server.end = "done"
    assert run(kind, server, images) == 0 and len(rows(images)) == 7


def test_where_no_more_fits_the_next_batch_waits(server, images, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(OpenAIBatch, "most_requests", 2)
    begin = server.begin

    def begin_if_free(*arguments):
        name = begin(*arguments)
        if name == "batch-0":
            server.fail["POST", "/v1/batches"] = Response({"error": {"message": "too many", "code": "x"}}, 429)
        return name

    monkeypatch.setattr(server, "begin", begin_if_free)
    assert run("openai-batch", server, images) == 0
    assert len(rows(images)) == 7 and [len(batch) for batch in server.batches] == [2, 2, 2]


def test_a_server_that_fails_for_a_moment_is_asked_again(kind, server, images):
    error = {"message": "a moment", "code": 503, "status": "UNAVAILABLE"}
    server.fail["GET", "/v1/batches/batch-0"] = Response({"error": error}, 503)
    results = "/v1/files/file-1:download" if kind == "gemini-batch" else "/v1/files/file-1/content"
    server.fail["GET", results] = Response({"error": error}, 503)
    message = run(kind, server, images)
    assert "a moment" in message and "the same command goes on" in message and not server.fail
    assert run(kind, server, images) == 0 and len(rows(images)) == 7 and len(server.jobs) == 1


def test_images_of_an_expired_batch_are_left(kind, server, images):
    server.end, server.answers = "expired", [None] * 6
    assert run(kind, server, images) == 3 and len(rows(images)) == 1
    server.end, server.answers = "done", []
    assert run(kind, server, images) == 0 and len(rows(images)) == 7


def test_batches_of_another_model_are_not_mixed_in(kind, server, images, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batches.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        server.looks = 100
        assert run(kind, server, images) == 130
    server.looks = 1
    error = run(kind, server, images, "--model", "another", "--allow_mixed")
    assert "are under way" in error and "'some-model'" in error
    batches.file_of(out(images)).write_text('{"batches": [{"label": 3}]}')
    assert "expected what preprocess.annotate notes" in run(kind, server, images)


def test_a_wrong_key_is_found_before_anything_is_sent(kind, server, images):
    server.default = Response({"error": {"message": "API key not valid", "status": "INVALID_ARGUMENT"}}, 401)
    assert "API_KEY" in run(kind, server, images)
    assert not server.jobs and not server.files


def test_flags_of_batches_are_for_batches(server, images):
    assert "--batches is for gemini-batch and openai-batch" in run("openai", server, images, "--batches", "2")
