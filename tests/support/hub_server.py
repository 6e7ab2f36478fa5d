"""A stand-in for the Hugging Face hub on loopback: one data set, read from a folder, at a commit that may move."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

NAME = "someone/a-set"


class HubServer(ThreadingHTTPServer):
    """Serves `root` as the data set NAME; `commits` are the revisions it knows, and `main` is the last one."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.commits = ["a" * 40]
        self.requests: list[str] = []
        self.sent = 0

    @property
    def address(self) -> str:
        """Value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        api, resolve = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self._info(path.removeprefix(f"{api}/revision/") if path != api else "main")
        elif path.startswith(f"{api}/tree/"):
            _, _, folder = path.removeprefix(f"{api}/tree/").partition("/")
            self._json([self._entry(each) for each in self._below(folder)])
        elif path.startswith(f"{api}/paths-info/"):
            paths = json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]*)", body.decode())
            found = [self.server.root / unquote(each) for each in paths]
            self._json([self._entry(each) for each in found if each.exists()])
        elif path.startswith(resolve):
            self._file(path.removeprefix(resolve).partition("/")[2])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _below(self, folder: str) -> list[Path]:
        recursive = "recursive=true" in self.path.lower()
        return sorted((self.server.root / folder).glob("**/*" if recursive else "*"))

    def _entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.server.root).as_posix()
        digest = hashlib.sha1(path.read_bytes() if path.is_file() else name.encode()).hexdigest()
        kind = "file" if path.is_file() else "directory"
        return {"type": kind, "path": name, "oid": digest, "size": path.stat().st_size if path.is_file() else 0}

    def _info(self, revision: str) -> None:
        commits = self.server.commits
        if revision != "main" and revision not in commits:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        files = [{"rfilename": e["path"]} for e in map(self._entry, self.server.root.rglob("*")) if e["type"] == "file"]
        sha = commits[-1] if revision == "main" else revision
        self._json(
            {"_id": "1", "id": NAME, "sha": sha, "private": False, "siblings": files, "tags": [], "downloads": 0}
        )

    def _file(self, name: str) -> None:
        path = self.server.root / name
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.server.commits[-1]}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found:
            self._send(200, data, headers)
            return
        first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
        self._send(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.server.sent += len(data)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def hub_server(root: Path) -> Iterator[HubServer]:
    """Serve a folder as a data set of the hub."""
    server = HubServer(root)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
