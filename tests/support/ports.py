"""Ports of loopback for servers that have to be told theirs before they start."""

import secrets
import socket
from contextlib import closing, suppress

LOWEST, HIGHEST = 20_000, 32_767
"""Below the ports that Linux gives to connections and to servers that ask for any port."""

_claims: list[socket.socket] = []
"""Kept for as long as this process lives."""


def free_port() -> int:
    """Return a port of loopback that nobody has, and that is given to nobody else on this machine meanwhile.

    The port is not held: the server is still to bind it. What is held is a name that stands for it, in the kernel's
    name space of abstract sockets, so that this function returns another one in the processes that run beside this one.
    """
    while True:
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)
        claim = socket.socket(socket.AF_UNIX)
        with suppress(OSError), closing(socket.socket()) as probe:
            claim.bind(f"\0lightgen-tests-port-{port}")
            probe.bind(("127.0.0.1", port))
            _claims.append(claim)
            return port
        claim.close()
