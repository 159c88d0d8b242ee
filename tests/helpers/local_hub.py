"""A Hugging Face Hub of a few endpoints on 127.0.0.1, spoken to by the real huggingface_hub."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_test"


class LocalHub(ThreadingHTTPServer):
    """Holds repositories: name -> commits, oldest first, each with its files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.messages: list[str] = []
        self.downloads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Put files on top of the last commit; return the id of the new one."""
        last = self.commits[repo][-1] if self.commits.get(repo) else {}
        self.commits.setdefault(repo, []).append({**last, **files})
        return commit_id(repo, len(self.commits[repo]) - 1)

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits[repo] or [{}]
        ids = [commit_id(repo, index) for index in range(len(commits))]
        names = {"main": len(ids) - 1, **{i: index for index, i in enumerate(ids)}}
        return (ids[names[revision]], commits[names[revision]]) if revision in names else None


def commit_id(repo: str, index: int) -> str:
    return hashlib.sha1(f"{repo}{index}".encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if match := re.match(r"/api/models/([^/]+/[^/?]+)/(revision|tree)/([^/?]+)", self.path):
            repo, kind, revision = match.groups()
            if found := self._find(repo, revision):
                sha, files = found
                siblings = [{"rfilename": name} for name in files]
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                    for name, content in files.items()
                ]
                info = {"id": repo, "sha": sha, "siblings": siblings}
                self._answer(json.dumps(info if kind == "revision" else tree).encode())
        elif match := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path):
            repo, revision, name = match.groups()
            if found := self._find(repo, revision):
                sha, files = found
                if name not in files:
                    self._refuse(404, "EntryNotFound")
                    return
                if self.command == "GET":
                    self.server.downloads.append(name)
                self._answer(files[name], {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": sha})
        else:
            self._refuse(404, "")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match = re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._refuse(401, "")
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            exists = repo in self.server.commits
            self.server.commits.setdefault(repo, [])
            content = json.dumps({"url": f"{self.server.url}/{repo}"}).encode()
            self._answer(content, status=409 if exists else 200)
        elif self.path == "/api/validate-yaml":
            self._answer(b'{"errors": [], "warnings": []}')
        elif match and match[2] == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(json.dumps({"files": modes}).encode())
        elif match:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            (header,) = [line["value"] for line in lines if line["key"] == "header"]
            self.server.messages.append(header["summary"])
            oid = self.server.commit(match[1], files)
            url = f"{self.server.url}/{match[1]}/commit/{oid}"
            self._answer(json.dumps({"commitUrl": url, "commitOid": oid}).encode())
        else:
            self._refuse(404, "")

    def _find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if repo not in self.server.commits:
            self._refuse(404, "RepoNotFound")
            return None
        found = self.server.find(repo, revision)
        if found is None:
            self._refuse(404, "RevisionNotFound")
        return found

    def _answer(self, content: bytes, headers: dict[str, str] | None = None, status=200) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=status)

    def log_message(self, *_: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
