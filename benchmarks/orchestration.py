"""Cost of a fully cached run, with a Prefect server above its smallest flow, and without one.

    python -m benchmarks.orchestration --store STORE            the demo, done in STORE before
    python -m benchmarks.orchestration --store STORE --recipe smoke --rounds 9

All are commands as a user gives them: a Python that starts, imports, talks to the server if there is one, and ends.
They are run in turns, those with a server against that of PREFECT_API_URL, or one that is started and ended here.
Listed are medians of wall-clock seconds and of CPU seconds of the command itself (the server's are not in it), which
other programs disturb less.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows.environment import PREFECT_DEFAULTS

ROOT = Path(__file__).parents[1]
HELLO_FLOW, CACHED = "hello flow, with a server", "run, all cached, with a server"
BAR = 5.0
"""Seconds that a run with nothing to do may take above the smallest flow."""

HELLO = """
from prefect import flow

@flow
def hello():
    return 1

hello()
"""


class Taken(NamedTuple):
    """Seconds of one command: by the clock, and of CPUs."""

    wall: float
    cpu: float


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", required=True, help="where the recipe has been run")
    options.add_argument("--recipe", default="demo")
    options.add_argument("--rounds", type=int, default=5, help="timed runs of each, after one that is not")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as environment:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO)
        run = ["-m", "flows", "run", args.recipe, "--store", args.store, "--json"]
        require_done(run, environment)
        alone = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
        commands: dict[str, tuple[list[str], Mapping[str, str]]] = {
            HELLO_FLOW: ([str(hello)], environment),
            CACHED: (run, environment),
            "run, all cached, no server": (run, alone),
            "run --only tokens, cached, no server": ([*run, "--only", "tokens"], alone),
            "plan": (["-m", "flows", "plan", args.recipe, "--store", args.store], alone),
            "--help": (["-m", "flows", "--help"], alone),
        }
        timings: dict[str, list[Taken]] = {name: [] for name in commands}
        for turn in range(args.rounds + 1):
            for name, (command, variables) in commands.items():
                seconds = timed(command, variables)
                timings[name] += [seconds] if turn else []
    print_table(timings)


@contextmanager
def server(folder: Path) -> Iterator[Mapping[str, str]]:
    """Yield a command's environment for the server, started if there is none."""
    environment = os.environ | PREFECT_DEFAULTS | {"PYTHONPATH": str(ROOT)}
    if "PREFECT_API_URL" in os.environ:
        yield environment
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while not answers(f"{environment['PREFECT_API_URL']}/health"):
            if process.poll() is not None:
                raise RuntimeError(f"the Prefect server ended:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.2)
        yield environment
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    """Return True if a healthy server listens at an address."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


def require_done(run: list[str], environment: Mapping[str, str]) -> None:
    """Run what is not yet cached, so that the timed runs have nothing to do."""
    done = subprocess.run([sys.executable, *run], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    made = [stage["stage"] for stage in json.loads(done.stdout)["stages"] if stage["state"] != "cached"]
    if made:
        print(f"made first, untimed: {', '.join(made)}", file=sys.stderr)


def timed(command: list[str], environment: Mapping[str, str]) -> Taken:
    """Return the seconds of a Python command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return Taken(time.perf_counter() - start, used.ru_utime + used.ru_stime)


def print_table(timings: Mapping[str, list[Taken]]) -> None:
    """Print one row per command, and the difference of the two with a server."""
    medians = {name: Taken(*map(statistics.median, zip(*times, strict=True))) for name, times in timings.items()}
    print("| command | seconds | CPU seconds |\n| --- | --- | --- |")
    for name, (wall, cpu) in medians.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    above = medians[CACHED].wall - medians[HELLO_FLOW].wall
    rounds = len(timings[CACHED])
    print(f"\nMedians of {rounds}, in turns. With a server {above:.2f} s above the smallest flow; bar {BAR:g} s.")


if __name__ == "__main__":
    main()
