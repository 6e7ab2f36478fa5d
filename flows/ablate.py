"""An ablation as a Prefect flow: every stage that its runs need, once, and the comparison at the end."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Failed

from flows.ablation import AblationRequest, validate_ablation
from flows.ablation_axes import Student
from flows.ablation_outcome import ablation_result
from flows.environment import log_to_prefect
from flows.errors import USER_ERRORS, RunCancelled, StageFailed
from flows.openmp import bound_spinning
from flows.operations.cancellation import cancel_if_requested
from flows.operations.crash_detection import track_crashes
from flows.operations.device_limit import require_device_limit
from flows.operations.retries import without_traceback
from flows.run import failed_state
from flows.runner import Runner
from tasks.context.scratch import shared_store_lock

log = logging.getLogger("lightgen")


def run_name() -> str:
    """Return the name of the flow run that begins: recipe and axes, such as `demo-captions`."""
    context = FlowRunContext.get()
    assert context is not None and context.parameters is not None, "Prefect asks within the run"
    parameters = context.parameters
    return "-".join([str(parameters["recipe"]).rpartition("/")[2], *(axis["axis"] for axis in parameters["axes"])])


@flow(name="lightgen-ablate", flow_run_name=run_name, persist_result=False)
def ablate(
    recipe: str,
    axes: list[dict[str, Any]],
    seeds: int = 1,
    store: str | None = None,
    overrides: Sequence[str] = (),
    student: Student | None = None,
) -> dict[str, Any]:
    """Compare variants of a recipe; what is done already stays as it is, and what runs share is made once.

    Args:
        recipe: What the points vary.
        axes: One axis or two, `{"axis": name, "values": [...]}`.
        seeds: Trainings of each point.
        store: Where the artifacts are.
        overrides: Lines `section.field=value` for all points.
        student: Which student is scored; none: the tuned one where an axis is about tuning.

    Returns:
        What `lightgen ablate --json` prints.
    """
    started = time.monotonic()
    log_to_prefect()
    bound_spinning()
    logging.getLogger("prefect.flow_runs").addFilter(without_traceback)
    try:
        return _run(validate_ablation(recipe, axes, seeds, store, overrides, student), started)
    except (*USER_ERRORS, StageFailed) as error:
        return failed_state(Failed, error)
    except RunCancelled as error:
        return failed_state(Cancelled, error)


def _run(request: AblationRequest, started: float) -> dict[str, Any]:
    if request.on_device:
        require_device_limit(request.settings.device_limit)
    chosen, runner = request.chosen, Runner(request)
    log.info("%s: %d runs; store %s", request.run_name, len(request.runs), request.store.uri)
    track_crashes()
    with cancel_if_requested(), shared_store_lock(request.store, request.settings):
        for number, planned in enumerate(chosen):
            log.info("stage %d of %d: %s", number + 1, len(chosen), planned.artifact.path)
            runner.run(planned)
    return ablation_result(request, runner.rows, time.monotonic() - started)
