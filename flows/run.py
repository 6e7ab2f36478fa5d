"""The pipeline as a Prefect flow: one task run for each stage, `Cached` where nothing was left to do."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from flows.distill import distill
from flows.load import load_recipe
from flows.plan import plan, require_inputs
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
            name=stage.name, task_run_name=f"{stage.name}-{artifact.key}", cache_policy=NO_CACHE, persist_result=False
        )
        def run_stage() -> State[None]:
            refresh = stage.name in self.selection.refresh
            with tracked(self.recipe, self.settings, stage, artifact) as watch:
                ran = stage.make(self.recipe, self.settings, inputs, artifact, refresh=refresh, watch=watch)
            return Completed(message=artifact.uri) if ran else Completed(name="Cached", message=artifact.uri)

        started = time.monotonic()
        state = run_stage(return_state=True)
        if not state.is_completed():
            raise StageFailed(f"stage {stage.name} failed: {state.message}")
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


@flow(name="lightgen", flow_run_name="{recipe}", persist_result=False)
def run(
    recipe: str,
    store: str | None = None,
    overrides: Sequence[str] = (),
    only: str | None = None,
    from_stage: str | None = None,
    until: str | None = None,
    refresh: Sequence[str] = (),
) -> dict[str, Any]:
    """Run a recipe, or the chosen stages of it; what is done already stays as it is.

    Args:
        recipe: a recipe's name, or the path of a YAML file.
        store: folder or URL of the artifacts; the setting `LIGHTGEN_STORE` where it is left out.
        overrides: `section.field=value`, applied to the recipe.
        only: run this one stage.
        from_stage: run this stage and all after it.
        until: run all stages up to this one.
        refresh: make these stages again though they are done; `all` for every chosen one.

    Returns:
        What `lightgen run --json` prints.
    """
    started = time.monotonic()
    settings = Settings()
    require_trackers(settings.trackers)
    loaded, selection = load_recipe(recipe, overrides), select(only, from_stage, until, refresh)
    place = Store(store or settings.store)
    require_inputs(plan(loaded, place), selection)
    runner = Runner(loaded, settings, place, selection)
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
