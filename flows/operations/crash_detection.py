"""Mark killed runs of this machine as crashed, at the start of the next run.

Each run holds a locked file, named after its flow run, while it works. The kernel frees the lock when the process dies,
however it dies; so a file that can be locked belongs to a dead run, even if another process has its number by now. A
worker watches its own runs; those of other machines are left to Prefect's heartbeats
(`flows/automations/crashed.yaml`).
"""

import atexit
import fcntl
import logging
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_HOME
from prefect.states import Crashed

from flows.pages.live import API_ERRORS

log = logging.getLogger("lightgen")

MESSAGE = "the process ended without a word: killed, out of memory, or the machine stopped. A rerun goes on from there."
MAX_AGE_SECONDS = 30 * 24 * 3600
"""Age at which the file of a run that this server does not know (another's, a deleted one) is removed."""

_held: list[IO[str]] = []
"""Locked files, held until the process exits, when the run's last state has been sent."""


def track_crashes() -> None:
    """Register this run for crash detection and mark earlier killed runs as crashed."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    if context.flow_run.work_queue_id is None:  # else a worker watches over it
        _hold(context.flow_run.id)
    try:
        mark_crashed(context.flow_run.flow_id)
    except API_ERRORS as error:  # of other runs; this one goes on
        log.warning("runs that were killed here could not be marked as crashed (%s)", error)


def _hold(run_id: UUID) -> None:
    """Lock the file of a run, created elsewhere so that nobody finds it unlocked."""
    path = _folder() / str(run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.parent.parent / f"{run_id}.new"
    file = new.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(path)
    _held.append(file)
    atexit.register(path.unlink, missing_ok=True)


def mark_crashed(flow_id: UUID) -> None:
    """Set a flow's dead runs of this machine, and task runs of crashed runs, to crashed."""
    with get_client(sync_client=True) as client:
        for path in _folder().glob("*"):
            # missing: another run looks here too, or that one has ended; blocking: that one is alive
            with suppress(FileNotFoundError, BlockingIOError), path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _mark(client, path)
        running = client.read_task_runs(
            flow_filter=FlowFilter(id={"any_": [flow_id]}),
            flow_run_filter=FlowRunFilter(state={"type": {"any_": [StateType.CRASHED]}}),
            task_run_filter=TaskRunFilter(state={"type": {"any_": [StateType.RUNNING]}}),
        )
        for task_run in running:
            client.set_task_run_state(task_run.id, Crashed(message=MESSAGE), force=True)


def _mark(client: SyncPrefectClient, path: Path) -> None:
    try:
        run = client.read_flow_run(UUID(path.name))
    except ObjectNotFound:
        if time.time() - path.stat().st_mtime > MAX_AGE_SECONDS:
            path.unlink()
        return
    if run.state is not None and not run.state.is_final():
        log.info("run %s was killed: it is marked as crashed", run.name)
        client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
    path.unlink()


def _folder() -> Path:
    return PREFECT_HOME.value() / "lightgen" / "running" / socket.gethostname()
