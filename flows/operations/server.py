"""Find the Prefect server of a command, or start a temporary one.

`python -m flows.operations.server` is the latter. It prints its address on standard output once it answers, and ends
when its standard input does. Only the process that started it holds the other end of that pipe, so the server ends
however that process ends, kill -9 included; and not before it, so that the last states and logs still arrive.
"""

import argparse
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import httpx

from flows.errors import UserError

log = logging.getLogger("lightgen")

ROOT = Path(__file__).parents[2]
LOG_NAME = "lightgen-server.log"
"""File in PREFECT_HOME that the servers of all runs log to."""
TEMPORARY_SERVER = "LIGHTGEN_TEMPORARY_SERVER"
"""Environment variable that is set if the run's server ends with the run."""

STARTUP_TIMEOUT_SECONDS = 30.0
"""Wait for a configured server; `prefect server start --background` returns before it answers."""


class ServerError(RuntimeError):
    """The temporary server ended before it answered."""


def ensure_server() -> None:
    """Start a server for one run unless one is configured (`PREFECT_API_URL`, or a profile of Prefect).

    This process and the processes that it starts then use it. Its database is the one in `PREFECT_HOME`.

    Raises:
        UserError: no server answers at the configured address.
        ServerError: the server does not start.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        _require_answer(settings.api.url)
        return
    log.info("starting a Prefect server for this run; PREFECT_API_URL names one that stays")
    log_path = settings.home / LOG_NAME
    process, address = _start(log_path)
    if not address:
        raise ServerError(
            f"the Prefect server of this run ended with status {process.wait()} before it answered; {log_path} says "
            "why, unless that disk is full. If its database is damaged, move PREFECT_HOME/prefect.db (~/.prefect) "
            "away: it holds the history of runs only. Or start a server with `prefect server start` and set "
            "PREFECT_API_URL."
        )
    _processes.append(process)
    _use(address, PREFECT_UI_URL="", **{TEMPORARY_SERVER: "1"})


_processes: list[subprocess.Popen[str]] = []
"""References to servers; collecting a `Popen` would close its pipe."""


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Yield the UI address of a running server, which this process and its children then use.

    `PREFECT_API_URL` or the profile of Prefect names it. Where neither does, it is the server of this machine at
    Prefect's own port; where nobody answers there, one is started, and ended when the block is left.

    Raises:
        UserError: no server answers at the configured address, or none can be started here.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        _require_answer(settings.api.url)
        yield settings.api.url.removesuffix("/api")
        return
    address = f"http://127.0.0.1:{settings.server.api.port}"
    _use(address)
    try:
        answer = httpx.get(f"{address}/api/health", timeout=5).text.strip()
    except httpx.HTTPError:
        answer = ""
    if answer == "true":
        yield address
        return
    log_path = settings.home / LOG_NAME
    click.echo(f"starting a Prefect server at {address}; it ends with this command, and logs to {log_path}", err=True)
    process, answered = _start(log_path, "--ui", str(settings.server.api.port))
    try:
        if not answered:
            raise UserError(
                f"no Prefect server could be started at {address}; {log_path} says why.\n"
                "If another program has the port, choose one with PREFECT_SERVER_API_PORT=4201, or start a server "
                "elsewhere and set PREFECT_API_URL."
            )
        yield address
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _require_answer(api: str) -> None:
    """Raise UserError if no server answers at the configured address; any answer in JSON counts."""
    deadline, announced = time.monotonic() + STARTUP_TIMEOUT_SECONDS, False
    while True:
        try:
            answer = httpx.get(f"{api}/health", timeout=30)
            if answer.status_code in (502, 503, 504):  # of a proxy, before the server
                answer.raise_for_status()
            if "json" in answer.headers.get("Content-Type", ""):
                return
            raise UserError(
                f"{api}, the address in PREFECT_API_URL or in a profile, answers, but is no Prefect API.\n"
                f"Prefect's addresses end in /api, as in {httpx.URL(api).join('/api')}."
            )
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no Prefect server answered at {api}, the address in PREFECT_API_URL or in a profile, within "
                    f"{STARTUP_TIMEOUT_SECONDS:.0f} s ({error}).\n"
                    "Start it (`prefect server start` on that machine), or unset it: the command then starts one of "
                    "its own."
                ) from error
            if not announced:  # a server that has just been started takes some seconds
                click.echo(f"waiting for the Prefect server at {api}", err=True)
                announced = True
            time.sleep(0.5)


def _use(address: str, **more: str) -> None:
    from prefect.context import refresh_global_settings_context

    os.environ |= {"PREFECT_API_URL": f"{address}/api", **more}
    refresh_global_settings_context()


def _start(log_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server, wait for it and return its address; empty if it ended."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.operations.server", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for its starter, which has yet to report that it was stopped
        )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def main() -> None:
    """Serve until standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    parser = argparse.ArgumentParser(prog="python -m flows.operations.server", description=__doc__)
    parser.add_argument("--ui", type=int, metavar="PORT", help="with UI and scheduler; otherwise an API on a free port")
    port = parser.parse_args().ui
    listener = socket.create_server(("127.0.0.1", port or 0))
    app = create_app(ephemeral=port is None, final=True)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print("http://{}:{}".format(*listener.getsockname()), flush=True)

    server = Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=5))

    def end_with_starter() -> None:
        while os.read(0, 1):
            pass
        server.should_exit = True

    threading.Thread(target=end_with_starter, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
