"""A stand-in for the Hugging Face hub on loopback that takes a model repository and gives it back."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


@dataclass
class ModelHub:
    """Files that clients have pushed. url: value for HF_ENDPOINT. refused: status that every request gets instead."""

    url: str
    repositories: dict[str, dict] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refused: int | None = None
    requests: list[str] = field(default_factory=list)


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Serve a hub that has one commit of one repository; safetensors go the way of large files."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization") or "")
            path = unquote(self.path.partition("?")[0])
            if hub.refused:
                self.send(hub.refused, {"error": "refused"})
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.repositories[name] = asked
                self.send(200, {"url": f"{hub.url}/{name}", "name": name})
            elif path == "/api/validate-yaml":
                self.send(200, {"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
                files = [
                    {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}
                    for name, mode in zip(names, modes, strict=True)
                ]
                self.send(200, {"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**each, "actions": {"upload": {"href": f"{hub.url}/objects/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                self.send(200, {"transfer": "basic", "objects": objects})
            elif path.endswith("/commit/main"):
                self.commit([json.loads(line) for line in body.splitlines()])
            else:
                self.send(404, {"error": path})

        def commit(self, lines: list[dict]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            self.send(
                200,
                {
                    "commitUrl": f"{hub.url}/{next(iter(hub.repositories))}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "success": True,
                },
            )

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
            hub.objects[hashlib.sha256(data).hexdigest()] = data
            self.send(200, {})

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path = unquote(self.path.partition("?")[0])
            if path.startswith("/api/models/") and any(name in path for name in hub.repositories):
                siblings = [{"rfilename": name} for name in sorted(hub.files)]
                name = next(iter(hub.repositories))
                if "/tree/" in path:
                    self.send(
                        200, [{"type": "file", "path": n, "oid": "0", "size": len(d)} for n, d in hub.files.items()]
                    )
                else:
                    self.send(200, {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})
            elif (data := hub.files.get(path.partition(f"/resolve/{COMMIT}/")[2])) is not None:
                self.send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
            else:
                self.send(404, {"error": path}, {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = ModelHub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
