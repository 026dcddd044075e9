"""A server on this machine in the place of the Hugging Face Hub: repositories of models, without LFS."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import urlsplit

TOKEN = "hf_the_token_of_a_test"


def turn_to(address, monkeypatch):
    """Ask a server on this machine in the hub's place."""
    from huggingface_hub import constants

    path = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Repository:
    """commits: {sha: {path: bytes}}, the oldest first."""

    def __init__(self, private, files=None):
        self.private, self.commits = private, {}
        self.commit({".gitattributes": b""} | (files or {}))

    @property
    def head(self):
        return list(self.commits)[-1]

    @property
    def files(self):
        return self.commits[self.head]

    def commit(self, files):
        content = [len(self.commits), sorted((path, data.hex()) for path, data in files.items())]
        sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[sha] = files
        return sha


class Server(http.server.ThreadingHTTPServer):
    """repositories: {OWNER/NAME: Repository}; fetched: the files that were downloaded, by name."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.fetched = {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def hub():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)(?:/(revision|tree)/([\w.-]+))?", path):
            repository, sha = self.at(found[1], found[3])
            if sha and found[2] == "tree":
                files = repository.commits[sha].items()
                self.answer([{"type": "file", "path": p, "oid": git_oid(d), "size": len(d)} for p, d in files])
            elif sha:
                siblings = [{"rfilename": path} for path in repository.commits[sha]]
                self.answer({"id": found[1], "sha": sha, "private": repository.private, "siblings": siblings})
        elif found := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
            repository, sha = self.at(found[1], found[2])
            if sha and found[3] not in repository.commits[sha]:
                self.refuse(404, "EntryNotFound", sha)
            elif sha:
                if self.command == "GET":
                    self.server.fetched.append(found[3])
                data = repository.commits[sha][found[3]]
                self.send(data, ETag=f'"{git_oid(data)}"', **{"X-Repo-Commit": sha})

    def do_POST(self):
        path = urlsplit(self.path).path
        size = self.headers["Content-Length"]
        data = self.chunks() if size is None else self.rfile.read(int(size))
        if path == "/api/validate-yaml":
            self.answer({})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.refuse(401, "")
        elif path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories[name] = Repository(asked.get("private", asked.get("visibility") == "private"))
            self.answer({"url": f"{self.server.address}/{name}"})
        elif found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/(preupload|commit)/main", path):
            repository = self.server.repositories[found[1]]
            if found[2] == "preupload":
                files = [each["path"] for each in json.loads(data)["files"]]
                self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]})
            else:
                sha = commit(repository, [json.loads(line) for line in data.splitlines()])
                self.answer({"commitOid": sha, "commitUrl": f"{self.server.address}/{found[1]}/commit/{sha}"})

    def at(self, name, revision):
        """(Repository, sha) of a revision; answers, with Nones, where there is none or it is private."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and self.headers["Authorization"] != f"Bearer {TOKEN}"):
            self.refuse(401, "RepoNotFound")
            return None, None
        sha = repository.head if revision in (None, "main") else revision
        if sha not in repository.commits:
            self.refuse(404, "RevisionNotFound")
            return None, None
        return repository, sha

    def chunks(self):
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        return data

    def answer(self, value):
        self.send(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def send(self, data, **headers):
        self.send_response(200)
        for name, value in {**headers, "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status, code, sha=""):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit(repository, lines):
    """Do what the lines of a commit's body say; returns its sha."""
    files = dict(repository.files)
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            assert value.get("parentCommit") in (None, repository.head)
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        else:
            assert line["key"] == "file"
            files[value["path"]] = base64.b64decode(value["content"])
    return repository.commit(files)
