"""The Prefect server that `lightgen serve` reports to: the configured one, the one of this machine, or one of its own.

`python -m flows.ui_server` is the latter. It ends when its standard input does. Only the process that started it holds
the other end of that pipe, so the server ends however that process ends, and after its last word.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from flows.load import UserError

ROOT = Path(__file__).parents[1]
UP_WITHIN_SECONDS = 300


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Yield the address of the UI of a server that answers; this process and those that it starts then use it.

    `PREFECT_API_URL` or the profile of Prefect names it. Where neither does, it is the server of this machine at
    Prefect's own port; where nobody answers there, one is started, and ended when the block is left.

    Raises:
        UserError: no server answers at the configured address, or none can be started here.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        if not _answers(settings.api.url):
            raise UserError(
                f"no Prefect server answers at {settings.api.url}, the address in PREFECT_API_URL or in a profile.\n"
                "Start it (`prefect server start` on that machine), or unset it: `lightgen serve` then starts a server "
                "of its own."
            )
        yield settings.api.url.removesuffix("/api")
        return
    address = f"http://127.0.0.1:{settings.server.api.port}"
    _use(f"{address}/api")
    if _answers(f"{address}/api"):
        yield address
        return
    log = settings.home / "lightgen-server.log"
    click.echo(f"starting a Prefect server at {address}; it ends with this command, and logs to {log}", err=True)
    process = _start(log)
    try:
        _wait(process, address, log)
        yield address
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _answers(api: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{api}/health", timeout=5).text.strip() == "true"
    except httpx.HTTPError:
        return False


def _use(api: str) -> None:
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = api
    refresh_global_settings_context()


def _start(log: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.ui_server"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the schedule, which has to be paused on this server first
        )


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + UP_WITHIN_SECONDS
    while not _answers(f"{address}/api"):
        if process.poll() is not None or time.monotonic() > until:
            raise UserError(
                f"no Prefect server could be started at {address}; {log} says why.\n"
                "If another program has the port, choose one with PREFECT_SERVER_API_PORT=4201, or start a server "
                "elsewhere and set PREFECT_API_URL."
            )
        time.sleep(0.2)


def main() -> None:
    """Serve API, UI and scheduler until standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    port = get_current_settings().server.api.port
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(final=True), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=5
        )
    )
    threading.Thread(target=_end_with_starter, args=(server,), daemon=True).start()
    server.run()


def _end_with_starter(server: "uvicorn.Server") -> None:  # type: ignore[name-defined]  # noqa: F821
    while os.read(0, 1):
        pass
    server.should_exit = True


if __name__ == "__main__":
    main()
