"""A run that is killed can tell nobody: the next one on this machine marks it as crashed.

Each run holds a locked file for as long as it works, named after its flow run. The kernel frees the lock when the
process dies, however it dies; so a file that can be locked belongs to a run that is gone, whichever process has its
number by now. A worker watches over its own runs; those of other machines are left to Prefect's heartbeats
(`flows/automations/crashed.yaml`).
"""

import fcntl
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_HOME
from prefect.states import Crashed

log = logging.getLogger("lightgen")

MESSAGE = "the process ended without a word: killed, out of memory, or the machine stopped. A rerun goes on from there."
FORGOTTEN = 30 * 24 * 3600
"""Seconds after which the file of a run that this server does not know (another's, a deleted one) is removed."""


@contextmanager
def told_if_killed() -> Iterator[None]:
    """Around a flow's body: mark what died here before, and let a later run do the same for this one."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    mark_crashed(context.flow_run.flow_id)
    if context.flow_run.work_queue_id is not None:  # a worker started it
        yield
        return
    path = _folder() / str(context.flow_run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(path)  # so nobody finds it unlocked
        try:
            yield
        finally:
            path.unlink()


def mark_crashed(flow_id: UUID) -> None:
    """Set a flow's runs to crashed that died on this machine, and what they or others left as running task runs."""
    with get_client(sync_client=True) as client:
        with suppress(FileNotFoundError):
            for path in _folder().iterdir():
                with path.open() as file:
                    if _locked(file):
                        _mark(client, path)
        left = client.read_task_runs(
            flow_filter=FlowFilter(id=FlowFilterId(any_=[flow_id])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED]))
            ),
            task_run_filter=TaskRunFilter(
                state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
            ),
        )
        for task_run in left:
            client.set_task_run_state(task_run.id, Crashed(message=MESSAGE), force=True)


def _mark(client: SyncPrefectClient, path: Path) -> None:
    try:
        run = client.read_flow_run(UUID(path.stem))
    except ObjectNotFound:
        if time.time() - path.stat().st_mtime > FORGOTTEN:
            path.unlink()
        return
    if run.state is not None and not run.state.is_final():
        log.info("run %s was killed: it is marked as crashed", run.name)
        client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
    path.unlink()


def _locked(file: IO[str]) -> bool:
    """Lock a file, unless its holder lives."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder() -> Path:
    return PREFECT_HOME.value() / "lightgen" / "running" / socket.gethostname()
