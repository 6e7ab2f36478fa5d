"""The result of a run: what `lightgen run --json` prints, with or without Prefect."""

import logging
import time
from typing import Any, Literal

from flows.plan import named
from flows.request import Request
from storage.artifact import Artifact
from tasks.config.recipe import Recipe
from tasks.context.scratch import shared_store_lock
from tasks.pretrain import divergence
from tasks.stage import is_done

log = logging.getLogger("lightgen")


def stage_row(artifact: Artifact, state: Literal["ran", "cached"], seconds: float) -> dict[str, Any]:
    """Return a stage's row of the result."""
    return {
        **named(artifact),
        "state": state,
        "seconds": round(seconds, 3),
        "rows": artifact.manifest().counts["rows"],
        "uri": artifact.uri,
    }


def run_result(request: Request, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the result of a run that has ended, from the rows of its stages."""
    outcome = request.plan.rechecked()
    if request.recipe.smoke_test and outcome.scores():
        log.warning("%s is too small to learn from: its scores mean nothing", request.recipe.name)
    trained = outcome.check("pretrain").state == "done"
    if trained and (warning := divergence(outcome.artifacts["pretrain"].manifest().metrics)):
        log.warning("%s", warning)
    return {
        "recipe": request.recipe.name,
        "store": request.store.uri,
        "seconds": round(seconds, 3),
        "stages": rows,
        "scores": outcome.scores(),
        **({"differences": outcome.differences()} if _has_differences(request.recipe) else {}),
        "report": outcome.report(),
    }


def cached_rows(request: Request) -> list[dict[str, Any]] | None:
    """Return the rows of stages that are all done, or None if one has to be made; under the locks of a run."""
    rows = []
    with shared_store_lock(request.store, request.settings):
        for planned in request.chosen:
            started = time.monotonic()
            if not is_done(planned.artifact, request.settings):
                return None
            rows.append(stage_row(planned.artifact, "cached", time.monotonic() - started))
    return rows


def cached_result(request: Request) -> dict[str, Any] | None:
    """Return the result of a run with nothing to do, or None if it has to make a stage.

    Each artifact is compared with its manifest as a stage does it, under the same locks; Prefect is not needed.
    """
    chosen = request.plan.chosen(request.selection)
    # first without locks: another run may hold that of a stage which it makes for hours
    if request.selection.refresh or any(request.plan.check(label).state != "done" for label in chosen):
        return None
    begun = time.monotonic()
    if (rows := cached_rows(request)) is None:
        return None
    result = run_result(request, rows, time.monotonic() - begun)
    log.info("%s: nothing to do; no Prefect server is configured, so this run is not recorded", result["recipe"])
    return result


def _has_differences(recipe: Recipe) -> bool:
    """Return whether a recipe scores more students than the pre-trained and the tuned one."""
    return recipe.dpo.control != "none" or recipe.distil_head is not None
