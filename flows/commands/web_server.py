"""An application served on a port of this machine until a signal ends it."""

import contextlib
import ipaddress
from collections.abc import Callable
from typing import Any

from flows.errors import UserError
from tasks.config.settings import Settings

LOCAL_NAMES = ("127.0.0.1", "localhost")
"""Names by which a page of this machine alone may be called."""


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve_key(host: str) -> str:
    """Return the key that requests must bring, or "". Raises UserError beyond this machine without one."""
    key = Settings().serve_key.get_secret_value().strip()
    if not key and not is_loopback(host):
        raise UserError(
            f"--host {host} would be reached from other machines: set LIGHTGEN_SERVE_KEY to a key that requests must "
            "bring, or keep to 127.0.0.1"
        )
    return key


def allowed_hosts(host: str, key: str) -> tuple[str, ...]:
    """Return the names by which a server may be called; empty: any."""
    return LOCAL_NAMES if is_loopback(host) and not key else ()


def serve_until_stopped(app: Any, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serve an application until SIGTERM or Ctrl-C.

    on_start: called with the address once the port is taken.

    Raises:
        UserError: the port cannot be served at.
    """
    import uvicorn

    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
    try:
        socket = config.bind_socket()
    except SystemExit as error:  # uvicorn has logged the reason
        raise UserError(f"{host}:{port} cannot be served at; give another --port, or 0 for any that is free") from error
    socket.listen(config.backlog)  # whoever reads the address and connects at once waits instead of being refused
    on_start(f"http://{host}:{socket.getsockname()[1]}/")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after its orderly end
        uvicorn.Server(config).run(sockets=[socket])
