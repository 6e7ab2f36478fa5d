"""Reads from a test's Prefect server what became of its runs, by the API that the UI uses."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from prefect_server import PrefectServer


def get(server: PrefectServer, path: str) -> Any:
    with server.client() as client:
        return client.get(path).raise_for_status().json()


def post(server: PrefectServer, path: str, **body: Any) -> Any:
    with server.client() as client:
        return client.post(path, json=body).raise_for_status().json()


def newest_run(server: PrefectServer) -> dict[str, Any]:
    return post(server, "flow_runs/filter", sort="START_TIME_DESC", limit=1)[0]


def task_runs(server: PrefectServer, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The newest task run of each stage."""
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


def state_of(server: PrefectServer, run: dict[str, Any]) -> str:
    return get(server, f"flow_runs/{run['id']}")["state"]["type"]


def kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
