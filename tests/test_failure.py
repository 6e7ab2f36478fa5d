"""What fails on a real server: tried again where that helps, told in words, crashed where killed, gone on with."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.models.flows import FlowsSettings
from prefect_runs import get, history, kill, newest_run, post, runs_of, state_of, task_runs, wait_for_states, wait_until
from prefect_server import ROOT, PrefectServer, prefect_server, stop

from flows.console import PREFECT_DEFAULTS


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("server"), LIGHTGEN_RETRY_SECONDS="0.1") as running:
        yield running


@pytest.fixture
def store(tmp_path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


SHARDS = ["captions-00000.parquet", *(f"synthesis-{shard:05d}.parquet" for shard in range(3))]


def made(store: Path) -> list[str]:
    return (store / "made").read_text().split()


def test_a_stage_that_loses_its_connection_goes_on_at_the_shard_where_it_lost_it(server, store):
    (store / "trouble").write_text("ConnectionError")
    done = server.run("tests/two_stages.py", str(store))
    assert done.returncode == 0, done.stderr
    assert made(store) == SHARDS
    run = newest_run(server, store)
    wait_for_states(server, run, captions="Completed", synthesis="Completed")
    states = history(server, task_runs(server, run)["synthesis"])
    assert [state for state in states if state not in ("Pending", "Running")] == [
        "AwaitingRetry",
        "Retrying",
        "Completed",
    ]


def test_what_is_to_be_made_again_is_begun_once_for_all_attempts_of_a_run(server, store):
    assert server.run("tests/two_stages.py", str(store)).returncode == 0
    (store / "trouble").write_text("ConnectionError")
    done = server.run("tests/two_stages.py", str(store), "--refresh")
    assert done.returncode == 0, done.stderr
    assert made(store) == SHARDS + SHARDS


def test_bad_input_fails_at_once_and_says_so_with_one_traceback(server, store):
    (store / "trouble").write_text("ValueError\nValueError")
    done = server.run("tests/two_stages.py", str(store))
    assert done.returncode == 1
    told = "ValueError: found trouble, expected none"
    run = newest_run(server, store)
    assert run["state"]["type"] == "FAILED" and f"stage synthesis failed: {told}" in run["state"]["message"]
    wait_for_states(server, run, captions="Completed", synthesis="Failed")
    assert task_runs(server, run)["synthesis"]["state"]["message"] == told
    assert (store / "trouble").read_text() == "ValueError"  # it was met once

    def told_by() -> list[str]:
        logs = post(server, "logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}}, limit=200)
        return [line["name"] for line in logs if "in meet_trouble" in line["message"]]

    assert wait_until(told_by, seconds=30) == ["prefect.flow_runs"]


def test_a_killed_run_is_marked_as_crashed_by_a_later_one_and_a_living_one_is_not(server, store):
    (store / "trouble").write_text("wait")
    process = server.start("tests/two_stages.py", str(store), log=store / "log")
    wait_until((store / "waits").exists)
    first = newest_run(server, store)
    beside = server.start("tests/two_stages.py", str(store), log=store / "log")  # waits: the first one holds the stage
    wait_until(lambda: len(runs_of(server, store)) == 2)
    second = newest_run(server, store)
    wait_until(lambda: task_runs(server, second).keys() == {"captions", "synthesis"})
    assert state_of(server, first) == "RUNNING"
    kill(process)
    (store / "trouble").unlink()
    assert beside.wait(240) == 0
    assert server.run("tests/two_stages.py", str(store)).returncode == 0
    assert state_of(server, first) == "CRASHED"
    wait_for_states(server, first, captions="Completed", synthesis="Crashed")
    assert made(store) == SHARDS
    assert not list(Path(server.environment["PREFECT_HOME"]).glob("lightgen/running/*/*"))


def test_without_a_server_the_temporary_one_ends_with_a_killed_run_and_the_next_marks_it(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "flows", "run", "smoke", "--store", str(tmp_path / "store"), "--until"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "synthesis"], stderr=log, cwd=ROOT, env=environment)
    wait_until(lambda: "synthesis: shard 1 of" in (tmp_path / "log").read_text())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    kill(process)
    assert flow_states(tmp_path) == ["RUNNING"]
    wait_until(lambda: not Path(f"/proc/{children[0]}").exists(), seconds=30)
    done = subprocess.run([*command, "captions"], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert flow_states(tmp_path) == ["CRASHED", "COMPLETED"]


def flow_states(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as database:
        return [row[0] for row in database.execute("select state_type from flow_run order by created")]


def test_under_a_worker_a_killed_run_crashes_a_copy_goes_on_and_a_retry_ends_it(server, store):
    """What the UI's buttons do: "Copy to new run" makes a run of the same parameters, "Retry" sets AwaitingRetry."""
    assert server.run("-m", "prefect", "work-pool", "create", "failing", "--type", "process").returncode == 0
    deploy = (
        "from prefect import flow; flow.from_source(source='.', entrypoint='tests/two_stages.py:two_stages')"
        ".deploy('failing', work_pool_name='failing', build=False, push=False)"
    )
    assert (done := server.run("-c", deploy)).returncode == 0, done.stderr
    deployment = get(server, "deployments/name/lightgen/failing")
    worker = server.start("-m", "prefect", "worker", "start", "--pool", "failing", log=store / "log")
    try:
        (store / "trouble").write_text("wait")
        killed = start_run(server, deployment, store)
        wait_until((store / "waits").exists)
        (process,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(int(process), signal.SIGKILL)
        wait_until(lambda: state_of(server, killed) == "CRASHED", seconds=30)

        (store / "trouble").write_text("ValueError")
        copy = start_run(server, deployment, store)
        wait_until(lambda: state_of(server, copy) == "FAILED")
        assert made(store) == SHARDS[:2]
        wait_for_states(server, copy, captions="Cached", synthesis="Failed")
        wait_for_states(server, killed, captions="Completed", synthesis="Crashed")

        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the Prefect UI"}
        assert post(server, f"flow_runs/{copy['id']}/set_state", state=state)["status"] == "ACCEPT"
        wait_until(lambda: state_of(server, copy) == "COMPLETED")
        assert get(server, f"flow_runs/{copy['id']}")["run_count"] == 2
        assert made(store) == SHARDS
        wait_for_states(server, copy, captions="Cached", synthesis="Completed")
    finally:
        stop(worker)


def start_run(server: PrefectServer, deployment: dict[str, Any], store: Path) -> dict[str, Any]:
    return post(server, f"deployments/{deployment['id']}/create_flow_run", parameters={"store": str(store)})


AUTOMATION = ROOT / "flows" / "automations" / "crashed.yaml"
BEAT_SECONDS, WITHIN_SECONDS = 2, 10  # Prefect allows no shorter `within`
BEATING = f"""
import runpy, sys, prefect.flow_engine as engine
engine.MINIMUM_HEARTBEAT_INTERVAL = engine.BaseFlowRunEngine.heartbeat_seconds = {BEAT_SECONDS}
sys.argv[0] = "tests/two_stages.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_automation_waits_for_more_than_three_heartbeats_of_any_run():
    within = yaml.safe_load(AUTOMATION.read_text())["trigger"]["within"]
    assert within > 3 * int(PREFECT_DEFAULTS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert within > 3 * FlowsSettings.model_fields["heartbeat_frequency"].default


def test_the_automation_marks_a_run_without_heartbeats_and_none_that_works_hard(server, store, tmp_path):
    automation = yaml.safe_load(AUTOMATION.read_text())
    automation["trigger"]["within"] = WITHIN_SECONDS
    (tmp_path / "crashed.yaml").write_text(yaml.safe_dump(automation))
    done = server.run("-m", "prefect", "automation", "create", "--from-file", str(tmp_path / "crashed.yaml"))
    assert done.returncode == 0, done.stderr + done.stdout
    (store / "trouble").write_text("count")
    assert server.run("-c", BEATING, str(store)).returncode == 0
    healthy = newest_run(server, store)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trouble").write_text("wait")
    process = server.start("-c", BEATING, str(tmp_path / "other"), log=tmp_path / "log")
    wait_until((tmp_path / "other" / "waits").exists)
    killed = newest_run(server, tmp_path / "other")
    kill(process)
    wait_until(lambda: state_of(server, killed) == "CRASHED", seconds=60)
    assert "No heartbeat" in get(server, f"flow_runs/{killed['id']}")["state"]["message"]
    assert state_of(server, healthy) == "COMPLETED"
    assert "CRASHED" not in {state["type"] for state in get(server, f"flow_run_states/?flow_run_id={healthy['id']}")}
