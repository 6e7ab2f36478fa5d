"""A Prefect server for one run, where none is configured: it starts with the run and ends when the run's process does.

`python -m flows.server` is that server. It tells its address on standard output when it answers, and ends when its
standard input does. Only the process that started it holds the other end of that pipe, so the server ends however the
process ends, kill -9 included; and not before it, so that the last states and logs still arrive.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

log = logging.getLogger("lightgen")

ROOT = Path(__file__).parents[1]
TEMPORARY = "LIGHTGEN_TEMPORARY_SERVER"
"""Environment variable that is set where the run's server ends with the run."""


class ServerError(RuntimeError):
    """The temporary server ended before it answered."""


def ensure_server() -> None:
    """Start a temporary server unless one is configured (`PREFECT_API_URL`, or a profile of Prefect).

    This process and the processes that it starts then use it. Its database is the one in `PREFECT_HOME`.

    Raises:
        ServerError: the server does not start; what it says is on standard error.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    log.info("starting a Prefect server for this run; PREFECT_API_URL names one that stays")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the run, which still has to tell the server that it was stopped
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        raise ServerError(
            f"the Prefect server of this run ended with status {process.wait()} before it answered; why is said above. "
            "If its database is damaged, move PREFECT_HOME/prefect.db (~/.prefect) away: it holds the history of runs "
            "only. Or start a server with `prefect server start` and set PREFECT_API_URL."
        )
    _kept.append(process)
    os.environ |= {"PREFECT_API_URL": f"{address}/api", "PREFECT_UI_URL": "", TEMPORARY: "1"}
    refresh_global_settings_context()


_kept: list[subprocess.Popen[str]] = []
"""A `Popen` that is collected would close the pipe."""


def main() -> None:
    """Serve on a free port of this machine until standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f"http://{host}:{port}", flush=True)

    server = Server(
        uvicorn.Config(
            create_app(ephemeral=True, final=True), log_level="error", lifespan="on", timeout_graceful_shutdown=5
        )
    )

    def end_with_starter() -> None:
        while os.read(0, 1):
            pass
        server.should_exit = True

    threading.Thread(target=end_with_starter, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
