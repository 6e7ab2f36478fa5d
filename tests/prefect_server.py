"""A Prefect server of the test's own: a free port of loopback, a database of its own, nothing outside asked."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from flows.console import PREFECT_DEFAULTS

ROOT = Path(__file__).parent.parent
UP_WITHIN_SECONDS = 300


@dataclass(frozen=True)
class PrefectServer:
    """Where it answers, and the environment of every process that is to speak with it."""

    api: str
    """Address of the API, for example http://127.0.0.1:41327/api."""
    ui: str
    environment: dict[str, str]

    def run(self, *arguments: str, timeout: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS` in the repository's root against this server; output is captured as text."""
        given = {"cwd": ROOT, "env": self.environment, "capture_output": True, "text": True} | options
        return subprocess.run([sys.executable, *arguments], timeout=timeout, **given)  # type: ignore[call-overload]

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Start `python ARGUMENTS` as `run` does, in a process group of its own, and do not wait; `stop` ends it."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def client(self) -> httpx.Client:
        """Return a client of the API."""
        return httpx.Client(base_url=self.api, timeout=60, transport=_Patient())


class _Patient(httpx.HTTPTransport):
    """Asks again, as Prefect's own client does, when SQLite was locked: the server then answers 503."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for seconds in (0.5, 1, 2, 4):
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return response
            response.close()
            time.sleep(seconds)
        return super().handle_request(request)


@contextmanager
def prefect_server(home: Path, **environment: str) -> Iterator[PrefectServer]:
    """Start a server, wait until it answers, and end it with all its children.

    Args:
        home: an empty folder: Prefect's home (database, results) and the server's log.
        environment: further variables of the server and its clients, for example PREFECT_API_DATABASE_CONNECTION_URL.
    """
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": api, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    server = PrefectServer(api, api.removesuffix("/api"), inherited | PREFECT_DEFAULTS | own | environment)
    log = home / "server.log"
    process = server.start("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), log=log)
    try:
        _wait(server, process, log)
        yield server
    finally:
        stop(process)


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process: subprocess.Popen[bytes], seconds: float = 20) -> int:
    """Interrupt a process that `PrefectServer.start` began, as Ctrl-C does, and kill what of its group still runs then.

    Returns:
        Its exit status.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _wait(server: PrefectServer, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + UP_WITHIN_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, f"the Prefect server ended:\n{log.read_text()}"
        try:
            if httpx.get(f"{server.api}/health", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"the Prefect server did not answer within {UP_WITHIN_SECONDS} s:\n{log.read_text()}")
