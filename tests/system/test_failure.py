"""Failures on a real server: retried if that helps, reported in words, crashed if killed, resumed."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from prefect.settings.models.flows import FlowsSettings

from flows.environment import PREFECT_DEFAULTS
from flows.operations import cancellation
from tests.support.paths import ROOT, TWO_STAGES
from tests.support.prefect_server import PrefectServer, prefect_server
from tests.support.processes import children, is_running, kill, stop
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow(rank=3)


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


def test_a_stage_without_connection_goes_on_at_the_same_shard(server, store):
    """It is retried once, and completes."""
    (store / "trouble").write_text("ConnectionError")
    done = server.run(TWO_STAGES, str(store))
    assert done.returncode == 0, done.stderr
    assert made(store) == SHARDS
    run = server.api.newest_run(store)
    server.api.wait_for_states(run, captions="Completed", synthesis="Completed")
    states = server.api.history(server.api.task_runs(run)["synthesis"])
    assert [state for state in states if state not in ("Pending", "Running")] == [
        "AwaitingRetry",
        "Retrying",
        "Completed",
    ]


def test_a_refresh_begins_once_for_all_attempts_of_a_run(server, store):
    assert server.run(TWO_STAGES, str(store)).returncode == 0
    (store / "trouble").write_text("ConnectionError")
    done = server.run(TWO_STAGES, str(store), "--refresh")
    assert done.returncode == 0, done.stderr
    assert made(store) == SHARDS + SHARDS


def test_bad_input_fails_at_once_and_says_so_with_one_traceback(server, store):
    (store / "trouble").write_text("ValueError\nValueError")
    done = server.run(TWO_STAGES, str(store))
    assert done.returncode == 1
    told = "ValueError: found trouble, expected none"
    run = server.api.newest_run(store)
    assert run["state"]["type"] == "FAILED" and f"stage synthesis failed: {told}" in run["state"]["message"]
    server.api.wait_for_states(run, captions="Completed", synthesis="Failed")
    assert server.api.task_runs(run)["synthesis"]["state"]["message"] == told
    assert (store / "trouble").read_text() == "ValueError"  # it was met once
    told_by = [line["name"] for line in server.api.logs(run) if "in meet_trouble" in line["message"]]
    assert told_by == ["prefect.flow_runs"]


def test_a_killed_run_is_marked_as_crashed_and_a_living_is_not(server, store):
    """A later run marks it."""
    (store / "trouble").write_text("wait")
    process = server.start(TWO_STAGES, str(store), log=store / "first.log")
    wait_until((store / "waits").exists)
    (first,) = server.api.runs_in(store)
    beside = server.start(TWO_STAGES, str(store), log=store / "second.log")  # the first holds the stage
    wait_until(lambda: len(server.api.runs_in(store)) == 2)
    (second,) = [run for run in server.api.runs_in(store) if run["id"] != first["id"]]
    wait_until(lambda: server.api.task_runs(second).keys() == {"captions", "synthesis"})
    server.api.wait_for_states(first, captions="Completed", synthesis="Running")  # so the server has heard of them
    assert server.api.flow_run(first)["state_type"] == "RUNNING"
    kill(process)
    (store / "trouble").unlink()
    assert beside.wait(PATIENCE) == 0
    assert server.run(TWO_STAGES, str(store)).returncode == 0
    assert server.api.flow_run(first)["state_type"] == "CRASHED"
    server.api.wait_for_states(first, captions="Completed", synthesis="Crashed")
    assert made(store) == SHARDS
    assert not list(Path(server.environment["PREFECT_HOME"]).glob("lightgen/running/*/*"))


def test_the_temporary_server_ends_with_a_killed_run(tmp_path):
    """The next run that has work to do marks that one as crashed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    many = "synthesis.count=100000"  # not to be done before it is killed
    command = [sys.executable, "-m", "flows", "run", "smoke", "--store", str(tmp_path / "store"), "--set", many]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--until", "synthesis"], stderr=log, cwd=ROOT, env=environment)
    try:
        wait_until(lambda: "synthesis: shard 1 of" in (tmp_path / "log").read_text(), said=(tmp_path / "log").read_text)
        (server,) = children(process.pid)
    finally:
        kill(process)
    assert flow_states(tmp_path) == ["RUNNING"]
    wait_until(lambda: not is_running(server))
    again = [*command, "--until", "captions", "--refresh", "captions"]
    done = subprocess.run(again, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert flow_states(tmp_path) == ["CRASHED", "COMPLETED"]


def flow_states(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as database:
        return [row[0] for row in database.execute("select state_type from flow_run order by created")]


def test_with_a_worker_a_killed_run_crashes_and_a_copy_completes(server, store):
    """Do as the UI's buttons: "Copy to new run" makes a run of the same parameters, "Retry" sets AwaitingRetry."""
    assert server.run("-m", "prefect", "work-pool", "create", "failing", "--type", "process").returncode == 0
    deploy = (
        "from prefect import flow; flow.from_source(source='.', entrypoint='tests/programs/two_stages.py:two_stages')"
        ".deploy('failing', work_pool_name='failing', build=False, push=False)"
    )
    assert (done := server.run("-c", deploy)).returncode == 0, done.stderr
    api, given = server.api, {"store": str(store)}
    deployment = api.deployment("failing")
    worker = server.start("-m", "prefect", "worker", "start", "--pool", "failing", log=store / "log")
    try:
        (store / "trouble").write_text("wait")
        killed = api.start(deployment, **given)
        wait_until((store / "waits").exists)
        api.wait_for_states(killed, captions="Completed", synthesis="Running")  # so the server has heard of them
        (process,) = children(worker.pid)
        os.kill(process, signal.SIGKILL)
        api.wait_for_state(killed, "CRASHED")

        (store / "trouble").write_text("ValueError")
        copy = api.start(deployment, **given)
        api.wait_for_state(copy, "FAILED")
        assert made(store) == SHARDS[:2]
        api.wait_for_states(copy, captions="Cached", synthesis="Failed")
        api.wait_for_states(killed, captions="Completed", synthesis="Crashed")

        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the Prefect UI"}
        assert api.post(f"flow_runs/{copy['id']}/set_state", state=state)["status"] == "ACCEPT"
        assert api.wait_for_state(copy, "COMPLETED")["run_count"] == 2
        assert made(store) == SHARDS
        api.wait_for_states(copy, captions="Cached", synthesis="Completed")
    finally:
        stop(worker)


AUTOMATION = ROOT / "flows" / "automations" / "crashed.yaml"
BEAT_SECONDS, WITHIN_SECONDS = 1, 15  # a busy machine may delay a beat; Prefect allows no `within` below ten
IMPATIENT = """
from flows import cli
from flows.operations import cancellation
cancellation.POLL_SECONDS = 0.5
cli.main()
"""


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
def test_a_run_without_worker_ends_when_cancelled_or_deleted(server, store, how):
    counts = ["--set", "captions.count=40", "--set", "synthesis.count=200000"]
    recipe = ["run", "smoke", "--store", str(store), "--until", "synthesis", *counts]
    process = server.start("-c", IMPATIENT, *recipe, log=store / "log")
    wait_until(lambda: "synthesis: shard 1 of" in (store / "log").read_text())
    run = server.api.newest_run(store)
    if how == "deleted":
        server.api.http.delete(f"flow_runs/{run['id']}").raise_for_status()
    else:
        server.api.post(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    status, text = process.wait(PATIENCE), (store / "log").read_text()
    assert cancellation.MESSAGE in text
    if how == "deleted":
        assert status in (1, 130)  # 1 where Prefect cannot record the end of a run that is gone
        return
    assert status == 130 and text.splitlines()[-1].startswith("stopped; what is finished is kept")
    assert server.api.flow_run(run)["state_type"] == "CANCELLED"


BEATING = f"""
import runpy, sys, prefect.flow_engine as engine
engine.MINIMUM_HEARTBEAT_INTERVAL = engine.BaseFlowRunEngine.heartbeat_seconds = {BEAT_SECONDS}
sys.argv[0] = "tests/programs/two_stages.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_automation_waits_for_more_than_three_heartbeats():
    within = yaml.safe_load(AUTOMATION.read_text())["trigger"]["within"]
    assert within > 3 * int(PREFECT_DEFAULTS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert within > 3 * FlowsSettings.model_fields["heartbeat_frequency"].default


@pytest.fixture
def automation(server, tmp_path) -> Iterator[None]:
    """The automation that comes with the project, in a hurry, for as long as one test takes."""
    hurried = yaml.safe_load(AUTOMATION.read_text())
    hurried["trigger"]["within"] = WITHIN_SECONDS
    (tmp_path / "crashed.yaml").write_text(yaml.safe_dump(hurried))
    done = server.run("-m", "prefect", "automation", "create", "--from-file", str(tmp_path / "crashed.yaml"))
    assert done.returncode == 0, done.stderr + done.stdout
    yield
    (made,) = server.api.post("automations/filter")
    server.api.http.delete(f"automations/{made['id']}").raise_for_status()


def test_the_automation_marks_only_a_run_without_heartbeats(server, automation, store, tmp_path):
    """A run that works hard is not marked."""
    (store / "trouble").write_text("count")
    assert server.run("-c", BEATING, str(store)).returncode == 0
    (healthy,) = server.api.runs_in(store)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trouble").write_text("wait")
    process = server.start("-c", BEATING, str(tmp_path / "other"), log=tmp_path / "log")
    wait_until((tmp_path / "other" / "waits").exists)
    (killed,) = server.api.runs_in(tmp_path / "other")
    wait_until(lambda: server.api.events("prefect.flow-run.heartbeat", killed))
    kill(process)
    assert "No heartbeat" in server.api.wait_for_state(killed, "CRASHED")["state"]["message"]
    assert server.api.flow_run(healthy)["state_type"] == "COMPLETED"
    states = server.api.get(f"flow_run_states/?flow_run_id={healthy['id']}")
    assert "CRASHED" not in {state["type"] for state in states}
