"""PostgreSQL and Redis from Debian's packages, each new, on a free port of loopback, in a given folder."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import Processes


class NotInstalled(Exception):
    """A program that Debian has is not on this machine; the message says how to get it."""


def require_databases() -> None:
    """Raise NotInstalled where PostgreSQL or Redis is missing."""
    _postgres("initdb")
    _program("redis-server")


def start_postgres(processes: Processes, folder: Path, *, user: str, password: str, database: str) -> int:
    """Start PostgreSQL and return its port. It refuses to run as root: there it runs as the user postgres."""
    port, plain_user = free_port(), "postgres" if os.getuid() == 0 else None
    secret = folder / "password"
    folder.mkdir()
    secret.write_text(password)
    if plain_user:
        shutil.chown(folder, plain_user)
        shutil.chown(secret, plain_user)
    data = str(folder / "data")
    make = ["--username", user, "--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync"]
    processes.run("initdb", [_postgres("initdb"), "--pgdata", data, *make], user=plain_user)
    place = ["-D", data, "-p", str(port)]
    options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
    settings = [word for option in options for word in ("-c", option)]
    server = processes.start("postgres", [_postgres("postgres"), *place, *settings], user=plain_user)
    there = ["-h", "127.0.0.1", "-p", str(port)]
    server.wait_until(lambda: subprocess.run([_postgres("pg_isready"), "-q", *there]).returncode == 0)
    login = dict(os.environ, PGUSER=user, PGPASSWORD=password)
    processes.run("createdb", [_postgres("createdb"), *there, database], environment=login)
    return port


def start_redis(processes: Processes, folder: Path, command: Sequence[str], *, password: str) -> int:
    """Start Redis by a command `redis-server ...`, and return its port."""
    port = free_port()
    folder.mkdir()
    place = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    server = processes.start("redis", [_program(command[0]), *command[1:], *place])
    ask = [_program("redis-cli"), "-h", "127.0.0.1", "-p", str(port), "ping"]
    login = dict(os.environ, REDISCLI_AUTH=password)
    server.wait_until(lambda: "PONG" in subprocess.run(ask, env=login, capture_output=True, text=True).stdout)
    return port


def _postgres(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; Debian keeps the server's off PATH, in a folder per version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return _program(name, os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))


def _program(name: str, path: str | None = None) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        raise NotInstalled(f"{name} is not installed; on Debian: apt-get install postgresql redis-server")
    return found
