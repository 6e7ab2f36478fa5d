"""Makes the chosen stages in Prefect task runs, and lets a person watch them in the Prefect UI."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Completed, State
from prefect.tasks import exponential_backoff

from flows.operations.device_limit import device_slot
from flows.operations.retries import StageFailed, in_words, may_pass
from flows.pages.live import Live, page_key
from flows.pages.progress_log import Made
from flows.selection import Selection
from storage.artifact import Artifact
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.progress import each_of
from tasks.stage import Stage
from tasks.tracking.report import tracked


def _flow_run_began() -> datetime:
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None and context.flow_run.created is not None
    return context.flow_run.created


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
    began: datetime = field(default_factory=_flow_run_began)
    """When the flow run was made: what it is to make again and is younger, an earlier attempt of this run has made."""

    def __call__(self, stage: Stage, *inputs: Artifact) -> Artifact:
        artifact = stage.artifact(self.recipe, self.store, inputs)
        if stage.name not in self.selection.chosen:
            return artifact

        @task(
            name=stage.name,
            description=stage.purpose,
            task_run_name=f"{stage.name} {artifact.key[:8]}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=self.settings.retries,
            retry_delay_seconds=exponential_backoff(self.settings.retry_seconds),
            retry_condition_fn=may_pass,
        )
        @in_words
        def run_stage() -> State[None]:
            return self._make(stage, inputs, artifact)

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

    def _make(self, stage: Stage, inputs: tuple[Artifact, ...], artifact: Artifact) -> State[None]:
        """Make a stage while its page in the UI shows how far it is; return the state of its task run."""
        run = {"flow_run_id": UUID(runtime.flow_run.id), "task_run_id": UUID(runtime.task_run.id)}
        with Live(stage.name, artifact.uri, page_key(self.recipe.name, stage.name), stage.purpose, **run) as live:
            device = device_slot(self.settings.device_limit)
            remake_before = self.began if stage.name in self.selection.refresh else None
            with tracked(self.recipe, self.settings, stage, artifact) as tracking:
                watch = each_of(live.heard, tracking)
                ran = stage.make(
                    self.recipe,
                    self.settings,
                    inputs,
                    artifact,
                    remake_before=remake_before,
                    watch=watch,
                    device=device,
                )
            if ran:
                live.done(Made(artifact, inputs, self.recipe))
        manifest = artifact.manifest()
        if ran:
            seconds = manifest.timings["seconds"]
            return Completed(message=f"{stage.name} made {manifest.summary} in {seconds:.1f} s")
        return Completed(name="Cached", message=f"{stage.name} was done already: {manifest.summary}")
