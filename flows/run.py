"""The pipeline as a Prefect flow: one task run for each stage, `Cached` where nothing was left to do."""

import logging
import time
from typing import Any

from prefect import flow
from prefect.states import Failed

from flows.console import log_to_prefect
from flows.crashed import tell_if_killed
from flows.distill import NAMES, distill
from flows.form import Overrides, RecipeName, StageName, StageNames, StoreAddress
from flows.load import load_recipe
from flows.mistakes import MISTAKES
from flows.plan import plan, require_inputs
from flows.run_name import run_name
from flows.runner import Runner, StageFailed
from flows.selection import Selection, select
from storage.store import Store
from tasks.settings import Settings
from tasks.trackers import require_trackers

log = logging.getLogger("lightgen")


def refused(error: Exception) -> Any:
    """Return the state of a run that ends with an error in words: what is wrong and how to mend it, no traceback."""
    return Failed(message=str(error), data=error)


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
        overrides: What is made otherwise than the recipe says; fields left empty stay as they are.
        only: Run this one stage.
        from_stage: Run this stage and all after it.
        until: Run all stages up to this one.
        refresh: Make these stages again though they are done; all: every one that runs.

    Returns:
        What `lightgen run --json` prints.
    """
    try:
        return _run(recipe, store, overrides, select(only, from_stage, until, refresh))
    except (*MISTAKES, StageFailed) as error:
        return refused(error)


def _run(recipe: str, store: str | None, overrides: Overrides, selection: Selection) -> dict[str, Any]:
    started = time.monotonic()
    log_to_prefect()
    settings = Settings()
    require_trackers(settings.trackers)
    loaded = load_recipe(recipe, overrides)
    place = Store(store or settings.store)
    require_inputs(plan(loaded, place), selection)
    runner = Runner(loaded, settings, place, selection)
    log.info("%s: %s; store %s", loaded.name, ", ".join(name for name in NAMES if name in selection.chosen), place.uri)
    tell_if_killed()
    distill(runner)
    outcome = plan(loaded, place)
    result = {
        "recipe": loaded.name,
        "store": place.uri,
        "seconds": round(time.monotonic() - started, 3),
        "stages": runner.rows,
        "scores": outcome.scores(),
        "report": outcome.report(),
    }
    from flows.run_page import show_run_page  # late: it draws

    show_run_page(result, outcome)
    return result
