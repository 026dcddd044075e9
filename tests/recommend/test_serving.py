"""The JSON API over a real socket: it answers as a Recommender does, and refuses with a sentence."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.serving import equal
from recommend import Request
from recommend.__main__ import main
from recommend.serving import answers, run
from tests.conftest import ROOT
from tests.recommend.servers import HOSTILE, ODD_NAMES, ask, ask_json, hostile_index, served
from util import InputError

QUERY = "memes for when life is red"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return hostile_index(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def recommender(index):
    return index[0]


@pytest.fixture(scope="module")
def address(recommender):
    with served(recommender) as address:
        yield address


def same(found, answer):
    """Whether the API's answer says what the Recommender's says."""
    assert found["words"] == [list(word) for word in answer.words]
    assert found["gallery"] == answer.gallery and found["notes"] == list(answer.notes)
    fields = ("rank", "id", "score", "below", "qi", "qc", "alpha", "text")
    assert len(found["memes"]) == len(answer)
    for meme, expected in zip(found["memes"], answer, strict=True):
        assert {name: meme[name] for name in fields} == {name: getattr(expected, name) for name in fields}
        for name in ("emotions", "captions", "duplicates"):
            assert meme[name] == list(getattr(expected, name))
        assert not Path(meme["path"]).is_absolute() and str(expected.path).endswith(meme["path"])


def test_all_options_mean_what_they_mean_in_python(recommender, address):
    some = [meme.id for meme in recommender.search(QUERY, top=4)]
    cases = [
        ({"text": QUERY}, Request(QUERY)),
        ({"like": some[1], "top": 3}, Request(like=some[1], top=3)),
        ({"emotion": "happy"}, Request(emotion="happy")),
        (
            {
                "text": HOSTILE[1],
                "plus": ["a blue picture", "今天"],
                "plus_weight": 0.5,
                "minus": "a grey ball",
                "minus_weight": 2,
                "emotion": "sad",
                "seen": some[:2],
                "top": 7,
                "min_score": -0.5,
                "duplicates": "true",
            },
            Request(
                HOSTILE[1],
                plus=[("a blue picture", 0.5), ("今天", 1)],
                minus=[("a grey ball", 2)],
                emotion="sad",
                seen=some[:2],
                top=7,
                min_score=-0.5,
                duplicates=True,
            ),
        ),
    ]
    for query, request in cases:
        status, found = ask_json(address, "/api/search", **query)
        assert status == 200
        same(found, recommender.search(request))
    status, found = ask_json(address, "/api/search", text="x", min_score=99)
    assert status == 200 and found["memes"] == []


def test_a_picture_in_the_body(recommender, address, tmp_path):
    unknown = cv2.imencode(".png", np.full((64, 48, 3), (30, 60, 200), np.uint8))[1].tobytes()
    status, found = ask_json(address, "/api/search", "POST", unknown, text=QUERY, top=5)
    assert status == 200 and found["like"] is None
    same(found, recommender.search(QUERY, like=unknown, top=5))
    known = recommender.search(QUERY, top=1)[0]
    status, found = ask_json(address, "/api/search", "POST", known.path.read_bytes())
    assert status == 200 and found["like"] == known.id
    same(found, recommender.search(Request(like=known.id)))


def test_a_picture_is_not_stored(address, monkeypatch, tmp_path):
    picture = cv2.imencode(".png", np.full((64, 48, 3), (99, 60, 200), np.uint8))[1].tobytes()
    written = []

    def note(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(arguments[0])

    sys.addaudithook(note)
    assert ask(address, "/api/search", "POST", picture)[0] == 200
    assert [path for path in written if not isinstance(path, int)] == []


def test_images_are_those_of_the_index_by_id(recommender, address, index):
    ids = [meme.id for meme in recommender.search(QUERY, top=1000, duplicates=True)]
    assert set(ODD_NAMES) < set(ids)
    for image_id in (*ODD_NAMES, ids[0], next(i for i in ids if recommender.image_path(i).suffix == ".gif")):
        status, headers, data = ask(address, "/api/image", id=image_id)
        path = recommender.image_path(image_id)
        assert status == 200 and data == path.read_bytes()
        assert headers["content-type"] == f"image/{path.suffix[1:]}"
        assert headers["x-content-type-options"] == "nosniff"
        status, headers, data = ask(address, "/api/thumbnail", id=image_id)
        assert status == 200 and data[8:12] == b"WEBP" and headers["content-type"] == "image/webp"
    place = index[1]
    (place.data / "images" / "later.png").write_bytes((place.data / "images" / ODD_NAMES[0]).read_bytes())
    outside = ["later.png", "../test.csv", "test.csv", str(place.data / "test.csv"), "/etc/passwd", "", "x" * 4000]
    for image_id in outside:
        for path in ("/api/image", "/api/thumbnail"):
            status, found = ask_json(address, path, id=image_id)
            assert status == 404 and "no meme of the index has this id" in found["error"]
    for path in ("/../test.csv", "/images/later.png", "/page.py", "/%2e%2e/test.csv", "/redoc"):
        assert ask(address, path)[0] == 404


def test_an_image_that_is_gone(recommender, address, index):
    path = recommender.image_path(ODD_NAMES[1])
    data = path.read_bytes()
    try:
        path.unlink()
        status, found = ask_json(address, "/api/image", id=ODD_NAMES[1])
        assert status == 404 and "not in its folder any more" in found["error"]
        path.write_text("<script>alert(1)</script>")
        assert ask(address, "/api/image", id=ODD_NAMES[1])[0] == 404
    finally:
        path.write_bytes(data)


def png_of(width, height):
    """A PNG of a few bytes that claims to be so large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({}, "nothing to search for"),
        ({"text": " "}, "nothing to search for"),
        ({"text": "x" * 10_001}, "text: .*10000 characters"),
        ({"text": "x", "top": 0}, "^top: found '0', expected a whole number from 1 to 1,000$"),
        ({"text": "x", "top": 1001}, "^top: found '1001', expected a whole number from 1 to 1,000$"),
        ({"text": "x", "top": "many"}, "^top: found 'many', expected a whole number from 1 to 1,000$"),
        ({"text": "x", "min_score": "nan"}, "min_score"),
        ({"text": "x", "min_score": "inf"}, "min_score"),
        ({"text": "x", "plus": ["y"] * 17}, "plus: "),
        ({"text": "x", "plus": ["y"] * 9, "minus": ["y"] * 9}, "18 further sentences"),
        ({"text": "x", "plus": "y", "plus_weight": "nan"}, "weight"),
        ({"text": "x", "plus": "y", "plus_weight": -1}, "weight"),
        ({"text": "x", "plus_weight": 1}, "plus_weight is given 1 times"),
        ({"text": "x", "minus": " "}, "a further sentence is empty"),
        ({"emotion": "<b>"}, "^emotion <b>: none of the model's emotions"),
        ({"like": "nobody"}, "no meme of the index"),
        ({"text": "x", "seen": ["y"] * 1001}, "seen: "),
        ({"text": "x", "duplicates": "perhaps"}, "^duplicates: found 'perhaps', expected true or false$"),
        (
            {"text": "x", "plus": "y", "plus_weight": "heavy"},
            "^plus_weight.0: found 'heavy', expected a number above 0",
        ),
    ],
)
def test_bad_requests_get_a_sentence(address, query, told):
    status, found = ask_json(address, "/api/search", **query)
    assert status == 400 and re.search(told, found["error"]) and "Traceback" not in found["error"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "no picture in the body"),
        (b"<svg onload='x()'/>", 400, "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n", 400, "the picture: "),
        (png_of(10_000, 10_000), 400, "100,000,000 pixels: at most 50,000,000"),
        (png_of(300, 300), 400, "the picture: "),
        (bytes(answers.MAX_UPLOAD + 1), 413, "more than 20,971,520 bytes"),
    ],
)
def test_bad_pictures_get_a_sentence(address, body, status, told):
    try:
        found = ask_json(address, "/api/search", "POST", body)
    except ConnectionError:  # it closes the connection before all of the body is sent
        assert status == 413
        return
    assert found[0] == status and told in found[1]["error"]


def test_an_animation_of_too_many_pixels_is_not_decoded(recommender, monkeypatch):
    frames = [np.full((60, 60, 3), shade, np.uint8) for shade in (10, 200)]
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [100, 100]
    data = cv2.imencodeanimation(".gif", animation)[1].tobytes()
    answers.check_picture(data)
    monkeypatch.setattr(answers, "MAX_PAINTED", 2 * 60 * 60 - 1)
    with pytest.raises(InputError, match="the frames of the picture have 7,200 pixels"):
        answers.check_picture(data)


def test_a_body_that_does_not_say_its_length_is_cut_off(address, monkeypatch):
    monkeypatch.setattr(answers, "MAX_UPLOAD", 1000)

    def pieces():
        for _ in range(3):
            yield bytes(500)

    status, found = ask_json(address, "/api/search", "POST", pieces())  # chunked
    assert status == 413 and "more than 1,000 bytes" in found["error"]


def test_a_picture_that_does_not_come(address, monkeypatch):
    monkeypatch.setattr("recommend.serving.app.UPLOAD_SECONDS", 0.2)
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(f"POST /api/search HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n".encode())
        assert client.recv(2000).startswith(b"HTTP/1.1 408 ")


def test_like_and_a_picture(recommender, address):
    some = recommender.search(QUERY, top=1)[0]
    status, found = ask_json(address, "/api/search", "POST", some.path.read_bytes(), like=some.id)
    assert status == 400 and "one of them" in found["error"]


def test_only_this_machine_s_names_are_answered(recommender, address):
    for host in ("127.0.0.1:1", "localhost", "LocalHost.:80", "[::1]:7860", "192.168.0.7"):
        assert ask(address, "/", headers={"Host": host})[0] == 200
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "1", ""):
        for path in ("/", "/api/search", "/page.js", "/api/image"):
            status, found = ask_json(address, path, headers={"Host": host}, text="x", id=ODD_NAMES[0])
            assert status == 403 and "not called" in found["error"]
    with served(recommender, ["box.local"]) as other:
        assert ask(other, "/", headers={"Host": "box.local:80"})[0] == 200
        assert ask(other, "/", headers={"Host": "evil.example"})[0] == 403


def test_other_pages_may_link_and_not_ask(address):
    host = address.removeprefix("http://").rstrip("/")
    others = [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ]
    for headers in others:
        assert ask(address, "/", headers=headers)[0] == 200
        assert ask(address, "/api/search", headers=headers, text="x")[0] == 403
        assert ask(address, "/api/search", "POST", b"x", headers=headers)[0] == 403
        assert ask(address, "/api/image", headers=headers, id=ODD_NAMES[0])[0] == 403
    own = {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{host}"}
    status, headers, _ = ask(address, "/api/search", headers=own, text="x")
    assert status == 200 and not any(name.startswith("access-control") for name in headers)


def test_every_answer_has_the_security_headers(address):
    for path, query in (
        ("/", {}),
        ("/docs", {}),
        ("/nothing", {}),
        ("/api/search", {"text": "x"}),
        ("/api/search", {}),
    ):
        _, headers, _ = ask(address, path, **query)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin" and "server" not in headers


def test_other_methods_and_long_addresses(address):
    for method in ("PUT", "DELETE", "PATCH"):
        status, found = ask_json(address, "/api/search", method, text="x")
        assert status == 405 and found["error"]
    status, _, body = ask(address, "/api/search", text="x" * run.MAX_HEAD)
    assert 400 <= status < 500 and b"Traceback" not in body


def test_the_documentation_names_every_option_and_loads_nothing_from_elsewhere(address):
    status, _, body = ask(address, "/docs")
    html = body.decode()
    assert status == 200 and "<script" not in html
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,", "/page.css", "/", "/openapi.json"]
    schema = json.loads(ask(address, "/openapi.json")[2])
    names = {option["name"] for option in schema["paths"]["/api/search"]["get"]["parameters"]}
    fields = {"text", "like", "plus", "minus", "emotion", "seen", "top", "min_score", "duplicates"}
    assert names == fields | {"plus_weight", "minus_weight"}
    for name in names:
        assert f'<th scope="row"><code>{name}</code></th>' in html
    for path in schema["paths"]:
        assert f"{path}</code></h2>" in html


def test_texts_from_data_are_no_markup(address):
    _, headers, body = ask(address, "/", text=HOSTILE[0])
    assert b"hacked" not in body  # the page's script reads the query; the server does not put it into the page
    status, headers, body = ask(address, "/api/search", emotion="<script>")
    assert status == 400 and headers["content-type"] == "application/json"


def test_a_bug_is_told_without_a_traceback(address, recommender, monkeypatch, capfd):
    monkeypatch.setattr("recommend.serving.answers.search_each", lambda *_: 1 / 0)
    status, found = ask_json(address, "/api/search", text="x")
    assert status == 500 and "ZeroDivisionError" not in found["error"] and "terminal" in found["error"]


def test_telemetry_is_off(recommender, monkeypatch):
    """FastAPI tells OpenTelemetry of requests, where some program has set that up."""
    trace = pytest.importorskip("opentelemetry.trace")

    class Spy(trace.NoOpTracerProvider):
        asked = 0

        def get_tracer(self, *_, **__):
            Spy.asked += 1
            return super().get_tracer()

    monkeypatch.setattr(trace, "get_tracer_provider", Spy)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with served(recommender) as address:
        assert ask(address, "/api/search", text="x")[0] == 200
        assert ask(address, "/api/search", top=0)[0] == 400
    assert Spy.asked == 0


def test_many_clients_at_once_get_the_answers_of_one(recommender, address):
    queries = [{"text": f"memes for when life is {n}", "top": 1 + n % 9} for n in range(12)]
    queries += [{"like": meme.id} for meme in recommender.search(QUERY, top=4)]
    alone = [ask_json(address, "/api/search", **query) for query in queries]

    def client(number):
        order = np.random.default_rng(number).permutation(len(queries))
        got = {n: ask_json(address, "/api/search", **queries[n]) for n in order}
        return all(status == 200 and equal(found, alone[n][1]) for n, (status, found) in got.items())

    with ThreadPoolExecutor(16) as clients:
        assert all(clients.map(client, range(16)))
    assert {status for status, _ in alone} == {200}


def test_who_waits_is_searched_for_together_and_who_has_gone_is_not(recommender, monkeypatch):
    begun, go_on, searched = threading.Event(), threading.Event(), []
    search = answers.search_each

    def slow(recommender, requests):
        searched.append([request.text for request in requests])
        begun.set()
        go_on.wait(30)
        return search(recommender, requests)

    monkeypatch.setattr("recommend.serving.answers.search_each", slow)
    monkeypatch.setattr("recommend.serving.app.SEARCHES", 1)
    waiting = [{"text": "life is red"}, {"text": "x", "emotion": "joyful"}, {"text": "y", "like": "nobody"}]
    waiting += [{"text": "life is blue", "plus": "a grey ball", "top": 3}, {"like": ODD_NAMES[0]}]
    with served(recommender) as address, ThreadPoolExecutor(8) as clients:
        first = clients.submit(ask_json, address, "/api/search", text="first")
        assert begun.wait(30)
        host, port = address.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))) as impatient:
            impatient.sendall(f"GET /api/search?text=gone HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            time.sleep(0.2)
        others = [clients.submit(ask_json, address, "/api/search", **query) for query in waiting]
        time.sleep(0.5)
        assert ask(address, "/api/thumbnail", id=ODD_NAMES[0])[0] == 200  # which waits for no search
        go_on.set()
        assert first.result()[0] == 200
        got = [other.result() for other in others]
        assert [status for status, _ in got] == [200, 400, 400, 200, 200]
        assert "none of the model's emotions" in got[1][1]["error"] and "no meme of the index" in got[2][1]["error"]
        alone = [ask_json(address, "/api/search", **query) for query in waiting]
        assert all(equal(one[1], other[1]) for one, other in zip(got, alone, strict=True) if one[0] == 200)
    assert searched[0] == ["first"] and sorted(searched[1]) == sorted(query.get("text", "") for query in waiting)


def command(index, *more):
    flags = [index[1].folder / "index", "--device", "cpu", *more]
    return [sys.executable, "-m", "recommend", "serve", *map(str, flags)]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_the_command_says_where_it_listens_and_ends_with_ctrl_c(index):
    with subprocess.Popen(
        command(index, "--port", 0), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        line = server.stdout.readline()
        address = line.split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert ask_json(address, "/api/index")[1]["memes"] == len(index[0])
        assert ask(address, "/api/search", text="a secret query")[0] == 200
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert (out, err, server.returncode) == ("", "stopped\n", 130)


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    told = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert told.count("\n") <= 1
    return told


def test_what_the_command_refuses(index, tmp_path, capsys):
    folder = str(index[1].folder / "index")
    assert "holds no index" in refused(["serve", str(tmp_path), "--port", "0"], capsys)
    assert "0 (any that is free) to 65535" in refused(["serve", folder, "--port", "70000"], capsys)
    assert "cannot listen there" in refused(["serve", folder, "--host", "192.0.2.1", "--port", "0"], capsys)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert "another program listens there" in refused(["serve", folder, "--port", port], capsys)


def test_a_missing_package_is_named(index, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("recommend.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    told = refused(["serve", str(index[1].folder / "index")], capsys)
    assert "pip install -r requirements-serve.txt" in told


def test_others_are_let_in_with_a_warning_only():
    assert [run.warning(host) for host in run.LOCAL] == [None] * 3
    assert run.names_of("127.0.0.1") == []
    assert "--host 0.0.0.0" in run.warning("0.0.0.0")
    assert "box.local" in run.names_of("Box.local") and socket.gethostname().lower() in run.names_of("0.0.0.0")
