"""The pipeline as a Prefect flow: one task run for each stage, `Cached` where nothing was left to do."""

import time
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from prefect.tasks import exponential_backoff

from flows.crashed import told_if_killed
from flows.device_limit import device_slot
from flows.distill import distill
from flows.failures import in_words, may_pass
from flows.form import Overrides, RecipeName, StageName, StageNames, StoreAddress
from flows.load import load_recipe
from flows.mistakes import MISTAKES
from flows.plan import plan, require_inputs
from flows.run_name import run_name
from flows.selection import Selection, select
from storage.artifact import Artifact
from storage.store import Store
from tasks.recipe import Recipe
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.trackers import require_trackers
from tasks.tracking import tracked


class StageFailed(Exception):
    """A stage raised; what it had finished is kept, and the same command goes on from there."""


@dataclass
class Runner:
    """Makes the chosen stages in Prefect task runs.

    Prefect's own result cache stays off. The manifest in the store is the only mark of done, so a record cannot outlive
    its bytes; a stage that finds its manifest whole ends in a completed state named `Cached`.
    """

    recipe: Recipe
    settings: Settings
    store: Store
    selection: Selection
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, stage: Stage, *inputs: Artifact) -> Artifact:
        artifact = stage.artifact(self.recipe, self.store, inputs)
        if stage.name not in self.selection.chosen:
            return artifact

        @task(
            name=stage.name,
            task_run_name=f"{stage.name}-{artifact.key}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=self.settings.retries,
            retry_delay_seconds=exponential_backoff(self.settings.retry_seconds),
            retry_condition_fn=may_pass,
        )
        @in_words
        def run_stage() -> State[None]:
            refresh, device = stage.name in self.selection.refresh, device_slot(self.settings.device_limit)
            with tracked(self.recipe, self.settings, stage, artifact) as watch:
                ran = stage.make(
                    self.recipe, self.settings, inputs, artifact, refresh=refresh, watch=watch, device=device
                )
            return Completed(message=artifact.uri) if ran else Completed(name="Cached", message=artifact.uri)

        started = time.monotonic()
        state = run_stage(return_state=True)
        if not state.is_completed():
            error: Any = state.result(raise_on_failure=False)
            raise StageFailed(f"stage {stage.name} failed: {state.message}") from error
        self.rows.append(
            {
                "stage": stage.name,
                "key": artifact.key,
                "state": "cached" if state.name == "Cached" else "ran",
                "seconds": round(time.monotonic() - started, 3),
                "rows": artifact.manifest().counts["rows"],
                "uri": artifact.uri,
            }
        )
        return artifact


def refused(error: Exception) -> Any:
    """Return the state of a run whose request is wrong: its message says what and how to mend it, no traceback."""
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
    except MISTAKES as error:
        return refused(error)


def _run(recipe: str, store: str | None, overrides: Overrides, selection: Selection) -> dict[str, Any]:
    started = time.monotonic()
    settings = Settings()
    require_trackers(settings.trackers)
    loaded = load_recipe(recipe, overrides)
    place = Store(store or settings.store)
    require_inputs(plan(loaded, place), selection)
    runner = Runner(loaded, settings, place, selection)
    with told_if_killed():
        distill(runner)
    outcome = plan(loaded, place)
    return {
        "recipe": loaded.name,
        "store": place.uri,
        "seconds": round(time.monotonic() - started, 3),
        "stages": runner.rows,
        "scores": outcome.scores(),
        "report": outcome.report(),
    }
