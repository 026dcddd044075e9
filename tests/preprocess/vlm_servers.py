"""A server on this machine that speaks the wire formats of Gemini and of OpenAI's chat completions.

    with VlmServer() as server:
        server.script = [gemini_error(429, "slow down"), Response(gemini("…"), cut=True)]
        Gemini("some-model", "key", base_url=server.url)

`script` is answered one Response after the other; then `default` answers all further requests: a Response, or a
function from a Request to a Response, None for an answer that is right. `requests` keeps what came in.
"""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

ANSWER = {"captions": ["a cat looks at a dog"], "text": "ONE DOES NOT", "emotions": ["smug"]}
GEMINI_PATH = re.compile(r"/v1(?:beta)?/models/([^/]+):generateContent")
OPENAI_PATH = re.compile("/v1/chat/completions")


class Request(NamedTuple):
    path: str
    headers: object  # names in any case
    body: dict

    @property
    def model(self):
        match = GEMINI_PATH.fullmatch(self.path)
        return match[1] if match else self.body["model"]

    @property
    def parts(self):
        if GEMINI_PATH.fullmatch(self.path):
            return [part for content in self.body["contents"] for part in content["parts"]]
        return [part for message in self.body["messages"] for part in message["content"]]

    @property
    def pictures(self):
        """The JPEG files of either wire format, as bytes."""
        if GEMINI_PATH.fullmatch(self.path):
            inline = [part["inlineData"] for part in self.parts if "inlineData" in part]
            # the API takes names in both spellings and base64 in both alphabets; so do the versions of the SDK
            assert all((data.get("mimeType") or data["mime_type"]) == "image/jpeg" for data in inline)
            return [base64.urlsafe_b64decode(data["data"].replace("+", "-").replace("/", "_")) for data in inline]
        urls = [part["image_url"]["url"] for part in self.parts if part["type"] == "image_url"]
        heads, data = zip(*(url.split(",", 1) for url in urls), strict=True)
        assert set(heads) == {"data:image/jpeg;base64"}
        return [base64.b64decode(each, validate=True) for each in data]

    @property
    def prompt(self):
        (text,) = (part["text"] for part in self.parts if "text" in part)
        return text


class Response(NamedTuple):
    body: object  # bytes as they are, anything else as JSON
    status: int = 200
    headers: dict = {}
    cut: bool = False  # the connection is closed after half of the body
    delay: float = 0  # seconds before anything is sent
    pieces: object = None  # in place of the body: an iterable of bytes, to its end or until the other side hangs up
    pause: float = 0  # seconds between two pieces
    slow_head: bool = False  # the pieces are header lines; no body follows


def gemini(text=None, finish="STOP", **more):
    """A generateContent answer: `text` defaults to ANSWER, "" gives a candidate without content."""
    text = json.dumps(ANSWER) if text is None else text
    candidate = {"finishReason": finish, "index": 0}
    if text:
        candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 300, "candidatesTokenCount": 40, "thoughtsTokenCount": 7, "totalTokenCount": 347}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "some-model-001"} | more


def openai(text=None, finish="stop", message=None, **more):
    """A chat completion: `text` defaults to ANSWER; `message` replaces fields of the message."""
    message = {"role": "assistant", "content": json.dumps(ANSWER) if text is None else text} | (message or {})
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    usage = {"prompt_tokens": 300, "completion_tokens": 47, "total_tokens": 347}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "some-model",
        "choices": [choice], "usage": usage,
    } | more  # fmt: skip


def gemini_error(code, message, status="INVALID_ARGUMENT", details=(), headers=None):
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return Response({"error": error}, code, headers or {})


def openai_error(status, message, code=None, param=None, headers=None):
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Response({"error": error}, status, headers or {})


class VlmServer(ThreadingHTTPServer):
    """See the module's text. `url` is Gemini's base_url, `url + "/v1"` is OpenAI's."""

    def __init__(self, script=(), default=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.default, self.requests = list(script), default, []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.sent = 0  # bytes of pieces
        self.active = self.most_active = 0  # requests being answered at the same time
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def response_to(self, request):
        is_gemini = GEMINI_PATH.fullmatch(request.path)
        if not is_gemini and not OPENAI_PATH.fullmatch(request.path):
            return Response(b"<html>no such page</html>", 404, {"Content-Type": "text/html"})
        with self.lock:
            self.requests.append(request)
            response = self.script.pop(0) if self.script else self.default
        if callable(response):
            response = response(request)
        return response or Response(gemini() if is_gemini else openai())

    def handle_error(self, request, client_address):
        pass  # the other side hung up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        try:
            self.reply(server.response_to(Request(self.path, self.headers, body)))
        finally:
            with server.lock:
                server.active -= 1

    def reply(self, response):
        if response.delay:
            self.server.closing.wait(response.delay)
        if response.pieces is not None:
            self.reply_in_pieces(response)
            return
        content = response.body if isinstance(response.body, bytes) else json.dumps(response.body).encode()
        self.send_response(response.status)
        for name, value in ({"Content-Type": "application/json"} | response.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if response.cut:
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def reply_in_pieces(self, response):
        self.close_connection = True
        self.send_response(response.status)
        for name, value in ({"Content-Type": "application/json"} | response.headers).items():
            self.send_header(name, value)
        if response.slow_head:
            self.flush_headers()
        else:
            self.end_headers()
        for piece in response.pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            self.server.sent += len(piece)
            if self.server.closing.wait(response.pause):
                return

    def log_message(self, *arguments):
        pass
