"""Runs that were killed are marked as crashed by the next one on the machine; one that lives never is."""

import fcntl
import logging
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State, StateType

from flows.operations import crash_detection as crashed
from flows.operations.crash_detection import mark_crashed, track_crashes

FLOW = uuid4()


class Server:
    """Knows runs by their id, each as RUNNING until it is told otherwise."""

    def __init__(self) -> None:
        self.types: dict[UUID, StateType] = {}
        self.down = False

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_flow_run(self, run: UUID) -> Any:
        if self.down:
            raise httpx.ConnectError("connection refused")
        return SimpleNamespace(id=run, name=str(run), state=State(type=self.types.get(run, StateType.RUNNING)))

    def set_flow_run_state(self, run: UUID, state: State, force: bool) -> None:
        self.types[run] = state.type

    def read_task_runs(self, **_: object) -> list[Any]:
        return []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(crashed, "_folder", lambda: tmp_path / "running" / "host")
    return tmp_path / "running" / "host"


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(crashed, "get_client", lambda sync_client: server)
    return server


@pytest.fixture
def begins(monkeypatch):
    """Begin a run in this process, as its flow does."""

    def begin(run: UUID) -> None:
        flow_run = SimpleNamespace(id=run, flow_id=FLOW, work_queue_id=None)
        monkeypatch.setattr(crashed.FlowRunContext, "get", lambda: SimpleNamespace(flow_run=flow_run))
        track_crashes()

    return begin


@pytest.fixture
def dead(folder):
    """The id of a run that was killed."""
    folder.mkdir(parents=True)
    run = uuid4()
    (folder / str(run)).touch()
    return run


def test_a_run_that_just_begins_is_never_seen_unlocked(folder, server, begins, monkeypatch):
    run, lock = uuid4(), fcntl.flock

    def another_begins_before(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX:
            mark_crashed(FLOW)
        lock(file, how)

    monkeypatch.setattr(crashed.fcntl, "flock", another_begins_before)
    begins(run)
    mark_crashed(FLOW)
    assert server.types == {} and [path.name for path in folder.iterdir()] == [str(run)]


def test_a_killed_run_that_is_retried_does_not_count_itself_dead(folder, server, begins, dead):
    begins(dead)
    assert server.types == {} and (folder / str(dead)).exists()


def test_a_killed_run_is_marked_once_and_a_final_state_stays(folder, server, dead):
    ended = uuid4()
    (folder / str(ended)).touch()
    server.types[ended] = StateType.COMPLETED
    mark_crashed(FLOW)
    assert server.types == {dead: StateType.CRASHED, ended: StateType.COMPLETED}
    assert list(folder.iterdir()) == []


def test_a_file_removed_meanwhile_does_not_end_the_search(folder, server, dead):
    """Another run has removed it."""
    (folder / "gone").symlink_to(folder / "nowhere")
    others = [uuid4() for _ in range(3)]
    for other in others:
        (folder / str(other)).touch()
    mark_crashed(FLOW)
    assert server.types.keys() == {dead, *others}


def test_a_silent_server_costs_a_run_only_a_line(folder, server, begins, dead, caplog):
    server.down = True
    with caplog.at_level(logging.WARNING, "lightgen"):
        begins(uuid4())
    assert "could not be marked as crashed (connection refused)" in caplog.text
    assert (folder / str(dead)).exists()
