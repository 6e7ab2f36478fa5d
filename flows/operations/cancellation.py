"""End a run that was cancelled or deleted in the UI.

A worker passes a cancellation on, but not to a run that lived through an outage of the server, nor to a suspended one.
Runs of `lightgen run` and deleted runs get no notice at all, so each run polls the server.
"""

import contextvars
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectException, TerminationSignal

from flows.errors import RunCancelled

log = logging.getLogger("lightgen")

POLL_SECONDS = 10.0
"""Interval of requests; only the second answer "cancelled" counts, so that a worker acts first."""

SIGNAL_POLLS = 6
"""Intervals that a run has to end before it is signalled again."""

MESSAGE = "the run was cancelled or deleted in the Prefect UI; what is finished is kept"


@contextmanager
def cancel_if_requested() -> Iterator[None]:
    """Raise RunCancelled in a flow's body once its run is cancelled or deleted."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    if threading.current_thread() is not threading.main_thread():  # signals reach that one only
        yield
        return
    run, over, cancelled = context.flow_run.id, threading.Event(), threading.Event()

    def watch() -> None:
        answers = 0
        while answers < 2:
            if over.wait(POLL_SECONDS):
                return
            answers = answers + 1 if _is_cancelled(run) else 0
        cancelled.set()
        log.warning("%s", MESSAGE)
        while not over.is_set():  # again: what a signal raises may be lost, as in a callback of a library
            os.kill(os.getpid(), signal.SIGTERM)
            over.wait(SIGNAL_POLLS * POLL_SECONDS)

    copied = contextvars.copy_context().run  # the run's client is found by the context
    threading.Thread(target=copied, args=(watch,), name="cancellation", daemon=True).start()
    try:
        yield
    except TerminationSignal as error:
        if not cancelled.is_set():
            raise
        raise RunCancelled(MESSAGE) from error
    finally:
        over.set()


def _is_cancelled(run: UUID) -> bool:
    """Ask the server whether a run is cancelled; False if it does not answer."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
    except ObjectNotFound:
        return True
    except (httpx.HTTPError, PrefectException):
        return False
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)
