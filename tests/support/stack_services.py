"""Services of docker-compose.yml as plain processes of this machine: `running_stack` starts them and ends them.

PostgreSQL and Redis are Debian's, S3 is moto; what the Prefect server, the set-up and the worker run, and with which
environment, is read from docker-compose.yml. All ports are free ones, all files lie in one temporary folder.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.compose_file import filled, services
from tests.support.databases import require_databases, start_postgres, start_redis
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.prefect_api import PrefectApi
from tests.support.prefect_server import answers
from tests.support.processes import Process, Processes
from tests.support.s3_server import s3_server

SECRETS = {
    "PREFECT_AUTH": "admin:stack",
    "POSTGRES_PASSWORD": "postgres0secret",
    "REDIS_PASSWORD": "redis0secret",
    "S3_ACCESS_KEY": "test",
    "S3_SECRET_KEY": "test",
}


@dataclass
class Stack:
    """Running services and their ports, by their names in docker-compose.yml."""

    folder: Path
    processes: Processes
    variables: dict[str, str]
    """The variables that .env would hold."""
    ports: dict[str, int] = field(default_factory=dict)
    started: dict[str, Process] = field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of one of our own services."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "LIGHTGEN_", "AWS_")) or name == "LIGHTGEN_THREADS"
        }
        given = filled(services()[service]["environment"], self.variables)
        here = {name: self.here(str(value)) for name, value in given.items()}
        own = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder / "tmp"),
            "PREFECT_HOME": str(self.folder / f"prefect-{service}"),
            "HF_HUB_OFFLINE": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return inherited | here | own

    def here(self, value: str) -> str:
        """Return a value of the file with what it says of containers turned into what is true on this machine."""
        for service, port in self.ports.items():
            value = re.sub(rf"\b{service}:\d+", f"127.0.0.1:{port}", value)
        return re.sub(r"^(/cache|/home/lightgen)\b", lambda found: f"{self.folder}{found[0]}", value)

    def command(self, service: str) -> list[str]:
        """Return what a service runs."""
        return filled(services()[service]["command"], self.variables)

    def start(self, service: str, **environment: str) -> Process:
        """Start one of our own services."""
        environment = self.environment(service) | environment
        self.started[service] = self.processes.start(service, self.command(service), environment=environment)
        return self.started[service]

    @cached_property
    def api(self) -> PrefectApi:
        """A client of the Prefect API that gives the password."""
        user, password = self.variables["PREFECT_AUTH"].split(":")
        return PrefectApi(f"http://127.0.0.1:{self.ports['server']}/api", (user, password))


@contextmanager
def step(words: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"{words} ... ", end="", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print("no", flush=True)
        raise
    print(f"{time.monotonic() - started:.1f} s", flush=True)


@contextmanager
def running_stack() -> Iterator[Stack]:
    """Start everything, deploy, and end everything."""
    require_databases()
    with (
        tempfile.TemporaryDirectory(prefix="lightgen-stack-", ignore_cleanup_errors=True) as name,
        s3_server() as uri,
        Processes(Path(name)) as processes,
    ):
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL's user has to get through
        (folder / "tmp").mkdir()
        stack = Stack(folder, processes, SECRETS | {"LIGHTGEN_STORE": uri})
        stack.ports["s3"] = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port or 80
        start_databases(stack)
        start_server(stack)
        with step("set-up: work pool, device limit, automations, deployments"):
            processes.run("setup", stack.command("setup"), environment=stack.environment("setup"))
        with step("a worker polls"):
            start_worker(stack)
        yield stack


def start_databases(stack: Stack) -> None:
    """Start PostgreSQL and Redis, with the names and passwords that the server's addresses give."""
    postgres = filled(services()["postgres"]["environment"], stack.variables)
    with step("PostgreSQL: a new cluster, a database"):
        stack.ports["postgres"] = start_postgres(
            stack.processes,
            stack.folder / "postgres",
            user=postgres["POSTGRES_USER"],
            password=postgres["POSTGRES_PASSWORD"],
            database=postgres["POSTGRES_DB"],
        )
    with step("Redis"):
        stack.ports["redis"] = start_redis(
            stack.processes, stack.folder / "redis", stack.command("redis"), password=stack.variables["REDIS_PASSWORD"]
        )


def start_server(stack: Stack) -> None:
    """Start the Prefect server and wait until it can use its database."""
    stack.ports["server"] = free_port()
    with step("the Prefect server makes its tables and answers"):
        place = {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(stack.ports["server"])}
        server = stack.start("server", **place)
        url = f"http://127.0.0.1:{stack.ports['server']}/api/ready"
        server.wait_until(lambda: answers(url))


def start_worker(stack: Stack) -> None:
    """Start the worker and wait until its health check says that it polls."""
    port = free_port()
    worker = stack.start("worker", PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1", PREFECT_WORKER_WEBSERVER_PORT=str(port))

    def polls() -> bool:
        found = stack.api.post("work_pools/lightgen/workers/filter")
        return any(one["status"] == "ONLINE" for one in found) and answers(f"http://127.0.0.1:{port}/health")

    worker.wait_until(polls)
