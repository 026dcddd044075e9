"""A server on this machine that speaks the wire formats of Gemini's and of OpenAI's Batch API, and of single requests.

    with BatchServer() as server:
        server.looks = 2  # until a batch is done
        server.answers = [openai("…"), None, "right"]  # a body, or (status, error); None: no line; then right ones

`batches` has what was submitted, as lists of (key, Request).
"""

import email.parser
import email.policy
import json
import re

from tests.preprocess.vlm_servers import Handler, Request, Response, VlmServer, gemini, openai

GEMINI_BATCH = re.compile(r"/v1/models/([^/]+):batchGenerateContent")


class BatchServer(VlmServer):
    def __init__(self):
        super().__init__()
        self.RequestHandlerClass = BatchHandler
        self.files, self.jobs, self.deleted = {}, {}, []  # {name: bytes}, {name: dict}
        self.batches, self.answers, self.looks = [], [], 1
        self.calls, self.fail, self.end = [], {}, "done"  # (method, path); {(method, path): Response}

    def keep(self, data):
        name = f"file-{len(self.files)}"
        self.files[name] = data
        return name

    def begin(self, file, label, to_request):
        """A batch of the lines of a file: its name. to_request: a line -> (key, Request)."""
        lines = [to_request(json.loads(line)) for line in self.files[file].splitlines()]
        self.batches.append(lines)
        name = f"batch-{len(self.jobs)}"
        self.jobs[name] = {"label": label, "lines": lines, "looks": 0, "file": file, "results": None}
        return name

    def results_of(self, job, to_line):
        """The name of the file of a batch's answers. to_line(key, answer) makes a line."""
        if job["results"] is None:
            lines = []
            for key, request in reversed(job["lines"]):  # in any order
                right = gemini() if "contents" in request.body else openai()
                answer = self.answers.pop(0) if self.answers else right
                if answer is not None:
                    lines.append(json.dumps(to_line(key, right if answer == "right" else answer)))
            job["results"] = self.keep("\n".join(lines).encode())
        return job["results"]


class BatchHandler(Handler):
    def do_GET(self):
        self.route("GET")

    def do_DELETE(self):
        self.route("DELETE")

    def do_POST(self):
        if re.search(r"/files$|/files\?|/files/|/batches$|:batchGenerateContent", self.path):
            self.route("POST")
        else:
            super().do_POST()

    def route(self, method):
        # versions of Google's SDK differ in the version of the API that they call
        server, path = self.server, self.path.partition("?")[0].replace("/v1beta/", "/v1/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with server.lock:
            server.calls.append((method, path))
            response = server.fail.pop((method, path), None)
            if response is None:
                speak = self.gemini if "x-goog-api-key" in self.headers or "/upload/" in path else self.openai
                response = speak(method, path, body)
        self.reply(response if isinstance(response, Response) else Response(response))

    # OpenAI: platform.openai.com/docs/api-reference/batch

    def openai(self, method, path, body):
        server = self.server
        if (method, path) == ("POST", "/v1/files"):
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body).iter_parts()
            fields = {part.get_param("name", header="content-disposition"): part for part in parts}
            assert fields["purpose"].get_payload(decode=True).strip() == b"batch"
            return {"id": server.keep(fields["file"].get_payload(decode=True)), "object": "file", "purpose": "batch"}
        if (method, path) == ("POST", "/v1/batches"):
            asked = json.loads(body)
            assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
            name = server.begin(asked["input_file_id"], asked["metadata"]["label"], self.openai_line)
            return self.openai_job(name)
        if (method, path) == ("GET", "/v1/batches"):
            jobs = [self.openai_job(name) for name in server.jobs]
            return {"object": "list", "data": jobs, "first_id": None, "last_id": None, "has_more": False}
        name = path.split("/")[3]
        if path.startswith("/v1/batches/"):
            server.jobs[name]["looks"] += 1
            return self.openai_job(name)
        if method == "DELETE":
            server.deleted.append(name)
            return {"id": name, "object": "file", "deleted": True}
        assert path.endswith("/content")
        return Response(server.files[name], headers={"Content-Type": "application/octet-stream"})

    def openai_line(self, line):
        assert set(line) == {"custom_id", "method", "url", "body"} and line["method"] == "POST"
        return line["custom_id"], Request(line["url"], self.headers, line["body"])

    def openai_job(self, name):
        server, job = self.server, self.server.jobs[name]
        over = job["looks"] >= server.looks
        found = {
            "id": name, "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": job["file"],
            "completion_window": "24h", "created_at": 1, "metadata": {"label": job["label"]},
            "status": "in_progress", "output_file_id": None, "error_file_id": None, "errors": None,
        }  # fmt: skip
        if over and server.end in ("done", "expired"):
            found["status"] = "completed" if server.end == "done" else "expired"
            found["output_file_id"] = server.results_of(job, openai_result)
        elif over:
            code, message = server.end
            found["status"] = "failed"
            found["errors"] = {
                "object": "list",
                "data": [{"code": code, "message": message, "line": None, "param": None}],
            }
        return found

    # Gemini: ai.google.dev/api/batch-api, ai.google.dev/api/files

    def gemini(self, method, path, body):
        server = self.server
        if path == "/upload/v1/files":
            assert self.headers["X-Goog-Upload-Command"] == "start"
            self.server.uploading = b""
            return Response({}, headers={"X-Goog-Upload-URL": f"{server.url}/upload/v1/files/now"})
        if path == "/upload/v1/files/now":
            server.uploading += body
            if "finalize" not in self.headers["X-Goog-Upload-Command"]:
                return Response({}, headers={"X-Goog-Upload-Status": "active"})
            file = {"name": f"files/{server.keep(server.uploading)}"}
            return Response({"file": file}, headers={"X-Goog-Upload-Status": "final"})
        if GEMINI_BATCH.fullmatch(path):
            asked = json.loads(body)["batch"]
            file = asked["inputConfig"]["fileName"].removeprefix("files/")
            return self.gemini_job(server.begin(file, asked["displayName"], self.gemini_line))
        if path == "/v1/batches":
            return {"operations": [self.gemini_job(name) for name in server.jobs]}
        name = path.split("/")[3]
        if path.startswith("/v1/batches/"):
            server.jobs[name]["looks"] += 1
            return self.gemini_job(name)
        if method == "DELETE":
            server.deleted.append(name)
            return {}
        assert path.endswith(":download") and self.path.endswith("?alt=media")
        return Response(server.files[name.removesuffix(":download")], headers={"Content-Type": "application/jsonl"})

    def gemini_line(self, line):
        assert set(line) == {"key", "request"}
        return line["key"], Request("/v1/models/some-model:generateContent", self.headers, line["request"])

    def gemini_job(self, name):
        server, job = self.server, self.server.jobs[name]
        found = {"displayName": job["label"], "model": "models/some-model", "state": "BATCH_STATE_RUNNING"}
        if job["looks"] >= server.looks and server.end == "done":
            file = server.results_of(job, gemini_result)
            found |= {"state": "BATCH_STATE_SUCCEEDED", "output": {"responsesFile": f"files/{file}"}}
        elif job["looks"] >= server.looks:
            found["state"] = "BATCH_STATE_EXPIRED" if server.end == "expired" else "BATCH_STATE_FAILED"
        return {"name": f"batches/{name}", "metadata": found}


def openai_result(key, answer):
    status, body = answer if isinstance(answer, tuple) else (200, answer)
    return {
        "id": "r",
        "custom_id": key,
        "response": {"status_code": status, "request_id": "q", "body": body},
        "error": None,
    }


def gemini_result(key, answer):
    if isinstance(answer, tuple):
        return {"key": key, "error": {"code": answer[0], "message": answer[1]["error"]["message"]}}
    return {"key": key, "response": answer}
