"""A stand-in of the Hub on this machine: repositories in memory, over the paths that `huggingface_hub` uses."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


TOKEN = "hf_stand_in"


class LocalHub:
    """Repositories, branches and files; `requests` lists the method and path of every call."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.address = ""

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """Returns the files of a branch."""
        return self.repositories[repo_id]["branches"][branch]["files"]

    def create(self, repo_id: str, private: bool = False) -> None:
        """Makes a repository with an empty main branch."""
        branches = {"main": {"sha": hashlib.sha1(repo_id.encode()).hexdigest(), "files": {}}}
        self.repositories[repo_id] = {"private": private, "branches": branches, "commits": {}, "messages": []}

    def find(self, repo_id: str, revision: str) -> dict[str, Any] | None:
        """Returns a branch or a commit."""
        repository = self.repositories[repo_id]
        return repository["branches"].get(revision) or repository["commits"].get(revision)

    def commit(self, repo_id: str, branch: str, lines: list[dict[str, Any]]) -> str:
        """Applies a commit as the client sends it, and returns its id."""
        repository = self.repositories[repo_id]
        files = dict(repository["branches"][branch]["files"])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository["messages"].append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = hashlib.sha1(json.dumps(sorted(files)).encode() + str(len(repository["messages"])).encode()).hexdigest()
        repository["branches"][branch] = repository["commits"][sha] = {"sha": sha, "files": files}
        return sha


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""

    def _reply(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status: int, code: str) -> None:
        self._reply(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _begin(self) -> tuple[str, bytes]:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_GET(self) -> None:
        path, _ = self._begin()
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) in (4, 6):
            return self._info("/".join(parts[2:4]), parts[5] if len(parts) == 6 else "main")
        if len(parts) > 4 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._fail(404, "EntryNotFound")

    do_HEAD = do_GET

    def _info(self, repo_id: str, revision: str) -> None:
        if repo_id not in self.hub.repositories:
            return self._fail(404, "RepoNotFound")
        found = self.hub.find(repo_id, revision)
        if found is None:
            return self._fail(404, "RevisionNotFound")
        private = self.hub.repositories[repo_id]["private"]
        siblings = [{"rfilename": name} for name in sorted(found["files"])]
        return self._reply(
            200, {"_id": "0", "id": repo_id, "private": private, "sha": found["sha"], "siblings": siblings, "tags": []}
        )

    def _file(self, repo_id: str, revision: str, name: str) -> None:
        if repo_id not in self.hub.repositories:
            return self._fail(404, "RepoNotFound")
        found = self.hub.find(repo_id, revision)
        if found is None:
            return self._fail(404, "RevisionNotFound")
        if name not in found["files"]:
            return self._reply(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found["sha"]})
        content = found["files"][name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self._reply(200, content, {"X-Repo-Commit": found["sha"], "ETag": etag})

    def do_PUT(self) -> None:
        path, body = self._begin()
        self.hub.blobs[path.rsplit("/", 1)[-1]] = body
        self._reply(200)

    def do_POST(self) -> None:
        path, body = self._begin()
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        if path.startswith("/lfs/"):
            return self._reply(200, {})
        if not self._may_write():
            return self._fail(401, "Unauthorized")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._lfs(json.loads(body))
        repo_id, action, branch = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
        if action == "branch":
            branches = self.hub.repositories[repo_id]["branches"]
            if branch in branches:
                return self._fail(409, "Conflict")
            branches[branch] = branches["main"]
            return self._reply(200, {})
        if action == "preupload":
            large = [{"path": one["path"], "size": one["size"]} for one in json.loads(body)["files"]]
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] > 1e6 else "regular", "shouldIgnore": False}
                for one in large
            ]
            return self._reply(200, {"files": modes})
        if action == "commit":
            sha = self.hub.commit(repo_id, branch, [json.loads(line) for line in body.splitlines() if line])
            address = f"{self.hub.address}/{repo_id}/commit/{sha}"
            return self._reply(200, {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})
        return self._fail(404, "EntryNotFound")

    def _create(self, wanted: dict[str, Any]) -> None:
        repo_id = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if repo_id in self.hub.repositories:
            return self._reply(409, {"url": f"{self.hub.address}/{repo_id}", "error": "exists"})
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.create(repo_id, private)
        return self._reply(200, {"url": f"{self.hub.address}/{repo_id}", "id": repo_id})

    def _lfs(self, batch: dict[str, Any]) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {
                    "upload": {"href": f"{self.hub.address}/blobs/{one['oid']}"},
                    "verify": {"href": f"{self.hub.address}/lfs/verify"},
                },
            }
            for one in batch["objects"]
        ]
        self._reply(200, {"transfer": "basic", "objects": objects})


@contextmanager
def serve_hub() -> Iterator[LocalHub]:
    """Serves an empty stand-in on a free port of the loopback address."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
