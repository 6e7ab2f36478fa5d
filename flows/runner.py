"""Run the chosen stages in Prefect task runs, with a page for each in the Prefect UI."""

import logging
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

from flows.errors import StageFailed
from flows.operations.device_limit import device_slot
from flows.operations.retries import fail_with_message, should_retry
from flows.outcome import stage_row
from flows.pages.live import StagePage, page_key
from flows.pages.progress_log import StageResult
from flows.plan import PlannedStage
from flows.request import Request
from flows.terminal import stage_bar
from tasks.context.progress import Progress
from tasks.tracking.report import track_stage

log = logging.getLogger("lightgen")


def _flow_run_created() -> datetime:
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None and context.flow_run.created is not None
    return context.flow_run.created


@dataclass
class Runner:
    """Runs the chosen stages in Prefect task runs.

    Prefect's own result cache stays off. The manifest in the store is the only mark of done, so a record cannot outlive
    its bytes; a stage that finds its manifest whole ends in a completed state named `Cached`.
    """

    request: Request
    rows: list[dict[str, Any]] = field(default_factory=list)
    created: datetime = field(default_factory=_flow_run_created)
    """Creation of the flow run: a stage to refresh that is younger was made by an earlier attempt of this run."""

    def run(self, planned: PlannedStage) -> None:
        """Run a stage, or find it cached. Raises StageFailed with the error as its cause."""
        stage, artifact = planned.stage, planned.artifact
        settings = self.request.settings

        @task(
            name=stage.name,
            description=stage.description,
            task_run_name=f"{artifact.label} {artifact.key[:8]}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=settings.retries,
            retry_delay_seconds=exponential_backoff(settings.retry_seconds),
            retry_condition_fn=should_retry,
        )
        @fail_with_message
        def run_stage() -> State[None]:
            return self._run_stage(planned)

        started = time.monotonic()
        state = run_stage(return_state=True)
        if not state.is_completed():
            error: Any = state.result(raise_on_failure=False)
            raise StageFailed(f"stage {artifact.label} failed: {state.message}") from error
        log.info("%s", state.message)
        cached = state.name == "Cached"
        self.rows.append(stage_row(artifact, "cached" if cached else "ran", time.monotonic() - started))

    def _run_stage(self, planned: PlannedStage) -> State[None]:
        """Run a stage while its page in the UI shows its progress; return the state of its task run."""
        (stage, recipe, inputs, artifact), request = planned, self.request
        settings, label = request.settings, artifact.label
        run = {"flow_run_id": UUID(runtime.flow_run.id), "task_run_id": UUID(runtime.task_run.id)}
        with StagePage(label, artifact.uri, page_key(recipe.name, label), f"{recipe.name}: {label}", **run) as page:
            remake_before = self.created if stage.name in request.selection.refresh else None
            with track_stage(recipe, settings, stage, artifact) as tracking, stage_bar(label) as bar:

                def on_progress(progress: Progress) -> None:
                    page.progress(progress)
                    bar(progress)
                    tracking(progress)

                ran = stage.run(
                    recipe,
                    settings,
                    inputs,
                    artifact,
                    remake_before=remake_before,
                    on_progress=on_progress,
                    device=device_slot(settings.device_limit),
                )
            if ran:
                page.result = StageResult(artifact, inputs, recipe)
        manifest = artifact.manifest()
        if not ran:
            return Completed(name="Cached", message=f"{label} was done already: {manifest.summary}")
        made = f"{label} made {manifest.summary} in {manifest.timings['seconds']:.1f} s"
        if stopped := manifest.metrics.get("stopped"):
            return Completed(name="StoppedEarly", message=f"{made}; stopped early: {stopped}")
        return Completed(message=made)
