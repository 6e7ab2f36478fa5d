"""The pipeline as a Prefect flow: one task run for each stage, `Cached` where nothing was left to do."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Failed, State

from flows.environment import log_to_prefect
from flows.errors import USER_ERRORS, RunCancelled, StageFailed
from flows.openmp import bound_spinning
from flows.operations.cancellation import cancel_if_requested
from flows.operations.crash_detection import track_crashes
from flows.operations.device_limit import require_device_limit
from flows.operations.form import Overrides, RecipeName, StageName, StageNames, StoreAddress
from flows.operations.retries import without_traceback
from flows.outcome import run_result
from flows.request import Request, peek, take_over
from flows.runner import Runner
from tasks.context.scratch import shared_store_lock

log = logging.getLogger("lightgen")


def failed_state(state: Callable[..., State[Any]], error: Exception) -> Any:
    """Return the state of a run that ends with an error's message and no traceback."""
    return state(message=str(error), data=error)


def run_name() -> str:
    """Return the name of the flow run that begins; the recipe's where the request is wrong."""
    context = FlowRunContext.get()
    assert context is not None and context.parameters is not None, "Prefect asks within the run"
    try:
        return peek(context.parameters).run_name
    except USER_ERRORS:
        return Path(context.parameters["recipe"]).stem


@flow(name="lightgen", flow_run_name=run_name, persist_result=False)
def run(
    recipe: RecipeName,
    store: StoreAddress = None,
    overrides: Overrides = None,
    only: StageName = None,
    from_stage: StageName = None,
    until: StageName = None,
    refresh: StageNames = (),
) -> dict[str, Any]:
    """Run a recipe, or the chosen stages of it; what is done already stays as it is.

    Args:
        recipe: What is made.
        store: Where the artifacts are; the setting LIGHTGEN_STORE of the machine that runs it, or another place.
        overrides: What is made otherwise than the recipe says; fields left empty stay as they are there. A default in
            brackets is what counts where the recipe says nothing.
        only: Run this one stage.
        from_stage: Run this stage and all after it.
        until: Run all stages up to this one.
        refresh: Make these stages again though they are done; all: every one that runs.

    Returns:
        What `lightgen run --json` prints.
    """
    started, parameters = time.monotonic(), dict(locals())
    log_to_prefect()
    bound_spinning()
    logging.getLogger("prefect.flow_runs").addFilter(without_traceback)
    try:
        return _run(take_over(parameters), started)
    except (*USER_ERRORS, StageFailed) as error:
        return failed_state(Failed, error)
    except RunCancelled as error:
        return failed_state(Cancelled, error)


def _run(request: Request, started: float) -> dict[str, Any]:
    name, store = request.recipe.name, request.store
    if request.on_device:
        require_device_limit(request.settings.device_limit)
    runner = Runner(request)
    chosen = request.chosen
    log.info("%s: %s; store %s", name, ", ".join(planned.artifact.label for planned in chosen), store.uri)
    track_crashes()
    with cancel_if_requested(), shared_store_lock(store, request.settings):
        for planned in chosen:
            runner.run(planned)
    result = run_result(request, runner.rows, time.monotonic() - started)
    from flows.pages.run_page import show_run_page  # late: it draws

    show_run_page(result, request.plan.rechecked())
    return result
