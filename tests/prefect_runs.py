"""Reads from a test's Prefect server what became of its runs, by the API that the UI uses."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect_server import PrefectServer


def get(server: PrefectServer, path: str) -> Any:
    with server.client() as client:
        return client.get(path).raise_for_status().json()


def post(server: PrefectServer, path: str, **body: Any) -> Any:
    with server.client() as client:
        return client.post(path, json=body).raise_for_status().json()


def runs_of(server: PrefectServer, store: Path) -> list[dict[str, Any]]:
    """The flow runs of a store, oldest first; a server may have others, which work at the same time."""
    found = post(server, "flow_runs/filter", sort="EXPECTED_START_TIME_ASC")
    return [run for run in found if run["parameters"].get("store") == str(store)]


def newest_run(server: PrefectServer, store: Path) -> dict[str, Any]:
    return runs_of(server, store)[-1]


def task_runs(server: PrefectServer, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The newest task run of each stage; the server learns of them from events, a little later than they happen."""
    found = post(server, "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}}, sort="EXPECTED_START_TIME_ASC")
    return {re.match(r"\w+", task_run["name"])[0]: task_run for task_run in found}


def history(server: PrefectServer, task_run: dict[str, Any]) -> list[str]:
    return [state["name"] for state in get(server, f"task_run_states/?task_run_id={task_run['id']}")]


def wait_until(happened: Callable[[], Any], seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until, f"did not happen within {seconds} s"
        time.sleep(0.1)
    return found


def wait_for_states(server: PrefectServer, run: dict[str, Any], **states: str) -> None:
    """Wait until the run's stages, all of them, are in these states, for example `captions="Cached"`."""
    seen: dict[str, str] = {}

    def look() -> bool:
        seen.clear()
        seen.update({stage: task_run["state"]["name"] for stage, task_run in task_runs(server, run).items()})
        return seen == states

    try:
        wait_until(look, seconds=30)
    except AssertionError as error:
        raise AssertionError(f"expected {states}, found {seen}") from error


def state_of(server: PrefectServer, run: dict[str, Any]) -> str:
    return get(server, f"flow_runs/{run['id']}")["state"]["type"]


def kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
