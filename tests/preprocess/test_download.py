"""Downloads against servers on this machine: a real HTTP server, and moto's S3 server."""

import ast
import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from modules.backbones.published import PUBLISHED, path_of
from preprocess import download
from preprocess.download import fetch, main
from preprocess.downloading import sources
from tests.conftest import ROOT
from tests.preprocess.test_archives import RawName
from util import InputError

BODY = bytes(range(256)) * 4000  # about 1 MB: several chunks
SHA256 = hashlib.sha256(BODY).hexdigest()


class FileServer(ThreadingHTTPServer):
    """Serves `body` at any path; each test sets how well it behaves. `requests` are (path, headers)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.headers, self.ranges = BODY, {"ETag": '"one"'}, True
        self.statuses = []  # answered one after the other before the file is served
        self.cuts = []  # bytes after which a connection is closed, one after the other
        self.requests = []
        self.slow = False

    def url(self, path="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def asked_ranges(self):
        return [headers.get("Range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers))
        status, start = (server.statuses.pop(0), 0) if server.statuses else (200, 0)
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        tags = (server.headers.get("ETag"), server.headers.get("Last-Modified"))
        if "If-Match" in self.headers and self.headers["If-Match"] not in tags:
            status = 412
        if status == 200 and server.ranges and match and self.headers.get("If-Range", tags[0]) in tags:
            status, start = 206, int(match[1])
            if start >= len(server.body):
                status = 416
        content = server.body[start:] if status in (200, 206) else b"an error page"
        self.send_response(status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if server.cuts and status in (200, 206):
            content = content[: server.cuts.pop(0)]
            self.close_connection = True
        if server.slow:
            self.wfile.write(content[:300_000])
            self.wfile.flush()
            server.slow.wait(20)
            return
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("sha256", [None, SHA256, SHA256.upper()])
def test_a_file_arrives_whole(server, tmp_path, ranges, sha256):
    server.ranges = ranges
    target = fetch(server.url(), tmp_path / "new" / "file.bin", sha256)
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["file.bin"]


def test_a_right_file_is_recognised_without_a_request(server, tmp_path, capsys):
    (tmp_path / "file.bin").write_bytes(BODY)
    fetch(server.url(), tmp_path / "file.bin", SHA256)
    assert server.requests == []
    assert "SHA-256 is right" in capsys.readouterr().out


def test_a_wrong_file_is_replaced_only_by_a_right_one(server, tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(b"other")
    server.body = b"wrong again"
    with pytest.raises(InputError, match="expected"):
        fetch(server.url(), target, SHA256)
    assert target.read_bytes() == b"other"
    server.body = BODY
    assert fetch(server.url(), target, SHA256).read_bytes() == BODY


def test_without_a_checksum_a_file_that_is_there_is_kept(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"mine")
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_cut_connection_is_continued_where_it_broke(server, tmp_path, sha256):
    server.cuts = [300_000, 200_000]
    assert fetch(server.url(), tmp_path / "file.bin", sha256, pause=0).read_bytes() == BODY
    assert server.asked_ranges() == [None, "bytes=300000-", "bytes=500000-"]
    assert server.requests[1][1]["If-Range"] == '"one"'
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_server_that_ignores_ranges_sends_all_again(server, tmp_path, sha256):
    server.ranges, server.cuts = False, [300_000]
    assert fetch(server.url(), tmp_path / "file.bin", sha256, pause=0).read_bytes() == BODY


def test_without_a_version_or_checksum_nothing_is_continued(server, tmp_path):
    server.headers, server.cuts = {}, [300_000]
    assert fetch(server.url(), tmp_path / "file.bin", pause=0).read_bytes() == BODY
    assert server.asked_ranges() == [None, None]


@pytest.mark.parametrize("headers", [{"Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}, {"ETag": 'W/"weak"'}])
def test_a_weak_etag_is_not_taken_for_a_version(server, tmp_path, headers):
    server.headers, server.cuts = headers, [300_000]
    assert fetch(server.url(), tmp_path / "file.bin", SHA256, pause=0).read_bytes() == BODY
    assert server.requests[1][1].get("If-Range") == headers.get("Last-Modified")


def interrupted(server, target, sha256=None):
    """Fetch with every connection cut at once after the first 300,000 bytes: leaves a partial file."""
    server.cuts = [300_000] + [0] * download.ATTEMPTS
    with pytest.raises(InputError, match="300,000 bytes received so far are kept"):
        fetch(server.url(), target, sha256, pause=0)
    assert not target.exists()
    server.cuts = []
    server.requests.clear()


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_the_next_call_continues(server, tmp_path, sha256):
    interrupted(server, tmp_path / "file.bin", sha256)
    assert fetch(server.url(), tmp_path / "file.bin", sha256).read_bytes() == BODY
    assert server.asked_ranges() == ["bytes=300000-"]
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("obeys_if_range", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_between_two_calls_is_not_mixed(server, tmp_path, ranges, obeys_if_range):
    interrupted(server, tmp_path / "file.bin")
    server.body, server.ranges = BODY[::-1], ranges
    server.headers = {"ETag": '"two"'}
    if not obeys_if_range:  # sends the range of the new version
        server.headers["Last-Modified"] = '"one"'
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == BODY[::-1]


def test_a_file_that_became_shorter_is_fetched_anew(server, tmp_path):
    interrupted(server, tmp_path / "file.bin")
    server.body = BODY[:1000]  # under the same ETag: the server answers 416
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == BODY[:1000]
    assert server.asked_ranges() == ["bytes=300000-", None]


def test_a_damaged_partial_file_costs_one_more_download(server, tmp_path):
    interrupted(server, tmp_path / "file.bin", SHA256)
    (tmp_path / ".file.bin.partial").write_bytes(b"x" * 300_000)
    assert fetch(server.url(), tmp_path / "file.bin", SHA256).read_bytes() == BODY
    assert server.asked_ranges() == ["bytes=300000-", None]


@pytest.mark.parametrize("note", ["", "[]", "{", '{"tag": 1}'])
def test_a_damaged_note_is_no_version(server, tmp_path, note):
    interrupted(server, tmp_path / "file.bin")
    (tmp_path / ".file.bin.version.partial").write_text(note)
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == BODY
    assert server.asked_ranges() == [None]


def test_a_complete_partial_file_needs_no_request(server, tmp_path):
    interrupted(server, tmp_path / "file.bin")
    (tmp_path / ".file.bin.partial").write_bytes(BODY)
    assert fetch(server.url(), tmp_path / "file.bin", SHA256).read_bytes() == BODY
    assert server.requests == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_error_is_retried(server, tmp_path, status):
    server.statuses = [status, status]
    assert fetch(server.url(), tmp_path / "file.bin", pause=0).read_bytes() == BODY


def test_waits_double_and_end(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.statuses = [503] * 100
    with pytest.raises(InputError, match="503 Service Unavailable"):
        fetch(server.url(), tmp_path / "file.bin")
    assert waits == [1, 2, 4, 8]
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_lasting_error_says_what_to_put_where(server, tmp_path, status):
    server.statuses = [status] * 9
    with pytest.raises(InputError, match=f"answers {status}.*put it at {tmp_path}/file.bin"):
        fetch(server.url(), tmp_path / "file.bin")
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_a_wrong_checksum_names_both_sums_and_leaves_nothing(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    found = hashlib.sha256(server.body).hexdigest()
    with pytest.raises(InputError) as error:
        fetch(server.url(), tmp_path / "file.bin", SHA256)
    assert found in str(error.value) and SHA256 in str(error.value)
    assert names(tmp_path) == []


def test_no_network(tmp_path):
    with FileServer() as closed:
        url = closed.url()
    with pytest.raises(InputError, match=f"{url} .*Connection refused.*put it at {tmp_path}/f .SHA-256 {SHA256}"):
        fetch(url, tmp_path / "f", SHA256, pause=0)


def test_a_content_coding_belongs_to_the_file(server, tmp_path):
    """Some servers call a stored .tar.gz gzip-coded plain text; decoding it would change the file."""
    server.headers["Content-Encoding"] = "gzip"
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == BODY
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def shown_error(url, target):
    """What a traceback of the fetch would show; empty if it succeeds."""
    try:
        fetch(url, target, pause=0)
    except InputError as error:
        return "".join(traceback.format_exception(error))
    return ""


@pytest.mark.parametrize("status", [200, 404, 500])
def test_secrets_are_sent_but_never_shown_or_stored(server, tmp_path, capsys, status):
    url = f"http://user:pass123@127.0.0.1:{server.server_port}/memes.zip?signature=abc987#part"
    server.statuses = [status] * 9 if status != 200 else []
    server.cuts = [1000]
    shown = shown_error(url, tmp_path / "memes.zip")
    path, headers = server.requests[0]
    assert "signature=abc987" in path and headers["Authorization"].startswith("Basic ")
    captured = capsys.readouterr()
    stored = "".join(path.read_text(errors="replace") for path in tmp_path.glob(".*"))
    for secret in ("pass123", "abc987", "user:"):
        assert secret not in shown + captured.out + captured.err + stored
    assert f"http://127.0.0.1:{server.server_port}/memes.zip" in captured.out


def test_secrets_are_not_shown_without_a_network(tmp_path, capsys):
    with FileServer() as closed:
        url = closed.url("f?signature=abc987").replace("//", "//user:pass123@")
    shown = shown_error(url, tmp_path / "f")
    captured = capsys.readouterr()
    assert "Connection refused" in shown
    assert not re.search("pass123|abc987|user:", shown + captured.out + captured.err)


def test_a_transfer_that_ends_early_without_an_error_is_continued(tmp_path, monkeypatch):
    """Older versions of urllib3 end so when a connection closes before Content-Length is reached."""

    @contextlib.contextmanager
    def open_source(source, start, tag, endpoint_url):
        yield sources.Reply(start, 10, "tag", [b"0123456789"[start : start + 4]])

    monkeypatch.setattr(download, "open_source", open_source)
    assert fetch("http://host/f", tmp_path / "f", pause=0).read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    "source", ["memes.zip", "ftp://host/f", "http://", "http://host:port/f?key=abc987", "s3://bucket", "http://[::1/f"]
)
def test_addresses_that_are_none(tmp_path, source):
    with pytest.raises(InputError) as error:
        fetch(source, tmp_path / "f")
    assert "abc987" not in str(error.value)


def test_names_of_files():
    assert sources.file_name("https://host/a/my%20memes.zip?x=/y") == "my memes.zip"
    assert sources.file_name("s3://bucket/a/what?.zip") == "what?.zip"
    for url in ("https://host/", "https://host", "https://host/a/", "https://host/%2e%2e", "https://host/a%2f..%2f.."):
        with pytest.raises(InputError, match="name of a file"):
            sources.file_name(url)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_program_leaves_a_resumable_file(server, tmp_path, signal_number):
    server.slow = threading.Event()
    command = [sys.executable, "-m", "preprocess.download", server.url(), "--out", str(tmp_path)]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / ".file.bin.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    program.send_signal(signal_number)
    _, errors = program.communicate(timeout=20)
    server.slow.set()
    assert program.returncode not in (0, None) and "Traceback" not in errors
    assert not (tmp_path / "file.bin").exists()
    received = partial.stat().st_size
    server.slow = False
    assert fetch(server.url(), tmp_path / "file.bin").read_bytes() == BODY
    assert server.asked_ranges()[-1] == f"bytes={received}-"


# --- S3 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return monkeypatch


@pytest.fixture(scope="module")
def s3_url():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(aws, s3_url):
    aws.setenv("AWS_ACCESS_KEY_ID", "key")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    client.create_bucket(Bucket="memes")
    client.put_object(Bucket="memes", Key="a/file?.bin", Body=BODY)
    return client


def test_s3_file(bucket, s3_url, tmp_path):
    assert fetch("s3://memes/a/file?.bin", tmp_path / "f", SHA256, s3_url).read_bytes() == BODY
    assert names(tmp_path) == ["f"]


def test_s3_continues_only_the_same_version(bucket, s3_url, tmp_path, monkeypatch):
    asked = []
    open_s3 = sources.open_s3
    monkeypatch.setattr(sources, "open_s3", lambda *args: asked.append(args[1]) or open_s3(*args))
    etag = bucket.head_object(Bucket="memes", Key="a/file?.bin")["ETag"]
    for change in (False, True):
        item = download.Download("s3://memes/a/file?.bin", tmp_path / "f", None, s3_url)
        item.data.write_bytes(BODY[:300_000])
        download.write_json(item.note, {"tag": etag, "total": len(BODY)})
        if change:
            bucket.put_object(Bucket="memes", Key="a/file?.bin", Body=BODY[::-1])
        assert fetch(item.source, tmp_path / "f", None, s3_url).read_bytes() == (BODY[::-1] if change else BODY)
        (tmp_path / "f").unlink()
    assert asked == [300_000, 300_000, 0]


@pytest.mark.parametrize("address", ["s3://memes/none.zip", "s3://no-such-bucket/file.zip"])
def test_s3_file_that_is_not_there(bucket, s3_url, tmp_path, address):
    with pytest.raises(InputError, match=f"{address}: S3 answers 404 NoSuch.*put it at"):
        fetch(address, tmp_path / "f", endpoint_url=s3_url, pause=0)
    assert names(tmp_path) == []


def test_s3_without_credentials_is_unsigned_and_says_so_when_refused(aws, server, tmp_path):
    fetch("s3://memes/file.bin", tmp_path / "f", endpoint_url=server.url(""))
    path, headers = server.requests[0]
    assert path == "/memes/file.bin" and "Authorization" not in headers
    server.statuses = [403]
    with pytest.raises(InputError, match="403.*no AWS credentials"):
        fetch("s3://memes/file.bin", tmp_path / "g", endpoint_url=server.url(""))


def test_s3_with_credentials_is_signed(aws, server, tmp_path):
    aws.setenv("AWS_ACCESS_KEY_ID", "key")
    aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    fetch("s3://memes/file.bin", tmp_path / "f", endpoint_url=server.url(""))
    assert "Credential=key/" in server.requests[0][1]["Authorization"]


def test_s3_cut_connection_and_passing_errors(aws, server, tmp_path):
    server.statuses, server.cuts = [503], [300_000]
    fetch("s3://memes/file.bin", tmp_path / "f", endpoint_url=server.url(""), pause=0)
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.asked_ranges() == [None, None, "bytes=300000-"]
    assert server.requests[-1][1]["If-Match"] == '"one"'


def test_s3_settings_that_cannot_be_used(aws, tmp_path):
    with pytest.raises(InputError, match="cannot be used"):
        fetch("s3://memes/file.bin", tmp_path / "f", endpoint_url="no url")
    aws.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match="ProfileNotFound"):
        fetch("s3://memes/file.bin", tmp_path / "f", endpoint_url="http://127.0.0.1:9")


def test_s3_no_network(aws, tmp_path):
    with FileServer() as closed:
        url = closed.url("")
    with pytest.raises(InputError, match="s3://memes/file.bin could not be fetched: Connection refused"):
        fetch("s3://memes/file.bin", tmp_path / "f", endpoint_url=url, pause=0)


# --- the program ------------------------------------------------------------------------------------------------


def published_by_openai():
    """{name: address} of OpenAI's own program, as its source says them."""
    try:
        file = importlib.metadata.distribution("clip-anytorch").locate_file("clip/clip.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("clip-anytorch (OpenAI's code, a development requirement) is not installed")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [models] = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_MODELS"]
    return ast.literal_eval(models)


def test_the_published_vits_are_openais():
    theirs = {name: address for name, address in published_by_openai().items() if name.startswith("ViT")}
    assert {name: published.address for name, published in PUBLISHED.items()} == theirs


@pytest.mark.parametrize("name", [None, *PUBLISHED])
def test_clip_is_a_published_file(tmp_path, monkeypatch, name):
    calls = []
    monkeypatch.setattr(download, "fetch", lambda *args: calls.append(args))
    words = ["clip"] if name is None else ["clip", name]
    main([*words, "--out", str(tmp_path)])
    main(words)
    address, sha256 = PUBLISHED[name or "ViT-B/32"].address, PUBLISHED[name or "ViT-B/32"].sha256
    file = address.rpartition("/")[2]
    assert calls == [(address, folder / file, sha256) for folder in (tmp_path, ROOT / "modules")]
    assert path_of(name or "ViT-B/32") == ROOT / "modules" / file  # where the program looks for it


def test_another_clip_is_not_fetched(capsys):
    for words in (["clip", "RN50"], ["clip", "ViT-B-16"], ["https://host/file", "ViT-B/16", "--out", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert words[1] in capsys.readouterr().err


def test_an_archive_is_fetched_and_unpacked(server, tmp_path, capsys):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("train.csv", "image_id")
    server.body = content.getvalue()
    command = [server.url("english.zip"), "--out", str(tmp_path), "--extract"]
    main(command)
    assert (tmp_path / "english" / "train.csv").read_text() == "image_id"
    with pytest.raises(SystemExit, match="english is there already"):
        main(command)
    with pytest.raises(SystemExit, match="error: .*cannot unpack"):
        main([server.url("english.rar"), "--out", str(tmp_path), "--extract"])
    assert [path for path, _ in server.requests] == ["/english.zip"]
    info = RawName("x")
    info.raw = "表情.jpg".encode("gbk")
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(info, "")
    server.body = content.getvalue()
    command = [server.url("chinese.zip"), "--out", str(tmp_path), "--extract"]
    with pytest.raises(SystemExit, match="gbk gives '表情.jpg'.*by --encoding"):
        main(command)
    capsys.readouterr()
    main([*command, "--encoding", "gbk"])
    assert (tmp_path / "chinese" / "表情.jpg").is_file()
    assert "chinese.zip were read as gbk\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["clip", "--extract"],
        ["http://host/f"],
        ["http://h/f", "--out", "x", "--endpoint_url", "y"],
        ["http://h/f.zip", "--out", "x", "--encoding", "gbk"],
        ["http://h/f.zip", "--out", "x", "--extract", "--encoding", "no-such"],
        ["http://h/f.zip", "--out", "x", "--extract", "--encoding", "hex"],
    ],
)
def test_flags_that_make_no_sense(flags):
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
