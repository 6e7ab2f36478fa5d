"""`make stack`: the installation of docker-compose.yml, started, used and ended."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import NotInstalled, require_databases
from tests.support.paths import PROGRAMS, ROOT
from tests.support.processes import kill
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.slow(rank=1), pytest.mark.stack]

COMMAND = [sys.executable, str(PROGRAMS / "stack.py")]


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


@pytest.fixture
def stack(folder) -> Iterator[subprocess.Popen[str]]:
    """The script, as it starts in the folder."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), TMPDIR=str(folder))
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(COMMAND, env=environment, **pipe) as process:
        yield process
        kill(process)


@pytest.mark.timeout(2400)
def test_the_recipe_runs_with_worker_and_s3_and_is_cached_then(stack, folder):
    output, _ = stack.communicate(timeout=2300)
    assert stack.returncode == 0, output
    print(output)
    assert left_in(folder) == []


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=["interrupted", "terminated", "killed"],
)
def test_any_way_to_stop_it_ends_everything_and_leaves_nothing(stack, folder, number, status):
    lines = iter(stack.stdout.readline, "")
    assert next(line for line in lines if "Redis" in line)
    stack.send_signal(number)
    assert stack.wait(PATIENCE) == status
    wait_until(lambda: left_in(folder) == [], said=lambda: left_in(folder))


def left_in(folder: Path) -> list[str]:
    """Return the files in a folder, and the commands of processes that stand in it or whose environment names it."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if str(folder).encode() in os.fsencode((process / "cwd").readlink()) + (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found
