"""An HTTP server of the test's own: it answers requests with prepared answers and remembers what it was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach loopback without a proxy, and let `openai` retry at once where the server names no wait."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)


@dataclass(frozen=True)
class Reply:
    """An answer of the server: a body (JSON unless bytes), after `delay` seconds."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Asked:
    """Requests in the order of their arrival, with the second in which each came."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply] | Sequence[Reply]) -> Iterator[Asked]:
    """Serve on a free port of loopback: a function of the request's body, or replies in turn, the last one for ever."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            with lock:
                turn = len(asked.bodies)
                asked.bodies.append(body)
                asked.paths.append(self.path)
                asked.headers.append({name.title(): value for name, value in self.headers.items()})
                asked.times.append(time.monotonic())
                asked.at_once += 1
                asked.most_at_once = max(asked.most_at_once, asked.at_once)
            reply = answer(body) if callable(answer) else answer[min(turn, len(answer) - 1)]
            time.sleep(reply.delay)
            with lock:
                asked.at_once -= 1
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in ({"Content-Length": str(len(data))} | dict(reply.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    asked = Asked(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
