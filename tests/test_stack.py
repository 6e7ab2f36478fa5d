"""`make stack`: the installation of docker-compose.yml, started, used and ended."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from compose_file import ROOT
from databases import NotInstalled, require_databases

COMMAND = [sys.executable, str(ROOT / "tests/stack.py")]


@pytest.fixture(autouse=True)
def programs():
    try:
        require_databases()
    except NotInstalled as error:
        if os.environ.get("LIGHTGEN_REQUIRE_STACK") == "1":
            pytest.fail(f"LIGHTGEN_REQUIRE_STACK=1, but {error}")
        pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture
def folder():
    """An empty folder that PostgreSQL's user can get through, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TMPDIR=str(folder))
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


@pytest.mark.timeout(2400)
def test_the_recipe_runs_through_worker_and_s3_store_and_once_more_from_what_is_there(folder):
    stack = start(folder)
    output, _ = stack.communicate(timeout=2300)
    assert stack.returncode == 0, output
    print(output)
    assert list(folder.iterdir()) == []
    assert running_with(folder) == []


def test_ctrl_c_ends_everything_and_leaves_nothing(folder):
    stack = start(folder)
    lines = iter(stack.stdout.readline, "")
    assert next(line for line in lines if "Redis" in line)
    stack.send_signal(signal.SIGINT)
    assert stack.wait(60) == 130
    assert list(folder.iterdir()) == []
    assert running_with(folder) == []


def running_with(folder: Path) -> list[str]:
    """Return the command lines of the processes that stand in a folder, or whose environment names it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if str(folder).encode() in os.fsencode((process / "cwd").readlink()) + (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found
