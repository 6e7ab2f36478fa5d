"""A Prefect server of the test's own: a free port of loopback, a database of its own, nothing outside asked."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx

from flows.environment import PREFECT_DEFAULTS
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.prefect_api import PrefectApi
from tests.support.processes import Process, stop


@dataclass(frozen=True)
class PrefectServer:
    """Its address, and the environment of every process that is to speak with it."""

    url: str
    """For example http://127.0.0.1:41327: the address of the UI, and below /api of the API."""
    environment: dict[str, str]

    @cached_property
    def api(self) -> PrefectApi:
        """A client of the API."""
        return PrefectApi(f"{self.url}/api")

    def run(self, *arguments: str, timeout: float = 300, **options: object) -> subprocess.CompletedProcess[str]:
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


@contextmanager
def prefect_server(home: Path, **environment: str) -> Iterator[PrefectServer]:
    """Start a server, wait until it answers, and end it with all its children.

    Args:
        home: an empty folder: Prefect's home (database, results) and the server's log.
        environment: further variables of the server and its clients, for example PREFECT_API_DATABASE_CONNECTION_URL.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": f"{url}/api", "PYTHONPATH": path}
    server = PrefectServer(url, inherited | PREFECT_DEFAULTS | own | {"HF_HUB_OFFLINE": "1"} | environment)
    log = home / "server.log"
    process = server.start("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), log=log)
    try:
        Process("the Prefect server", log, process).wait_until(lambda: answers(f"{url}/api/health"))
        yield server
    finally:
        stop(process)


def answers(url: str) -> bool:
    """Return whether a server answers there, and that all is well."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False
