"""A run contacts this machine only, and the hook that says so sees what it should."""

import os
import subprocess
import sys

import pytest

from tests.support.no_outside import watched
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow(rank=11)

LOOKING = """
import asyncio, contextlib, socket
with contextlib.suppress(OSError):
    socket.getaddrinfo("example.org", 80)
with contextlib.suppress(OSError):
    asyncio.run(asyncio.wait_for(asyncio.open_connection("203.0.113.7", 80), 0.1))
with contextlib.suppress(OSError):
    socket.create_connection(("127.0.0.1", 1))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("203.0.113.8", 53))
socket.getaddrinfo(socket.gethostname(), 0)
"""


def test_look_ups_and_contacts_of_a_started_program_are_seen():
    """This machine is not outside."""
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LOOKING!r}])"
    with watched(os.environ) as seen:
        subprocess.run([sys.executable, "-c", starts], env=seen.environment, check=True)
        assert [(kind, where) for _, kind, where in seen.contacts()] == [
            ("socket.getaddrinfo", "example.org"),
            ("socket.connect", "('203.0.113.7', 80)"),
            ("socket.connect", "('203.0.113.8', 53)"),
        ]


def test_a_run_with_a_temporary_server_contacts_nothing_outside(tmp_path):
    named = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    named |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    with watched(named) as seen:
        command = [
            sys.executable,
            "-m",
            "flows",
            "run",
            "smoke",
            "--until",
            "captions",
            "--store",
            str(tmp_path / "store"),
        ]
        subprocess.run(command, env=seen.environment, cwd=tmp_path, check=True, capture_output=True)
        assert len(seen.programs()) > 1, "the server is a program of its own"
        assert seen.contacts() == []
