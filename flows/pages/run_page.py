"""Markdown page of a run: the report, scores, samples, cost of each stage."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter

from flows.pages.links import report_line
from flows.pages.live import API_ERRORS, UiArtifact, page_key
from flows.pages.markdown import scores_markdown, table
from flows.pages.previews import sample_images
from flows.plan import Planner
from lightgen_core.report.formats import format_bytes, format_duration, number
from storage.plural import pluralize
from tasks.report_inputs import RunArtifacts

log = logging.getLogger("lightgen")


def show_run_page(result: Mapping[str, Any], outcome: Planner) -> None:
    """Add a page to the flow run that is ending; log a failure."""
    recipe, report = result["recipe"], f"; report: {result['report']}" if result["report"] else ""
    log.info("%s: %s%s", recipe, _summarize(result), report)
    description = f"`{recipe}`: scores, costs and the report of a run"
    flow_run_id = UUID(runtime.flow_run.id)
    page = UiArtifact("markdown", key=page_key(recipe, "run"), description=description, flow_run_id=flow_run_id)
    try:
        page.show(run_page(result, outcome, _pages(recipe, outcome)))
    except API_ERRORS as error:
        log.warning("Prefect's server does not take the page of the run (%s)", error)
    except Exception:  # a page that cannot be drawn must not end a run of days
        log.exception("the page of the run in the Prefect UI could not be drawn; the run is not touched by that")


def _pages(recipe: str, outcome: Planner) -> dict[str, str]:
    """Return the UI addresses of the stages' pages; a cached stage has its original run's."""
    stages = {page_key(recipe, stage): (stage, artifact) for stage, artifact in outcome.artifacts.items()}
    by_key = ArtifactCollectionFilter(key={"any_": list(stages)})
    pages = {}
    for page in get_client(sync_client=True).read_latest_artifacts(artifact_filter=by_key):
        stage, artifact = stages[str(page.key)]
        if artifact.key in str(page.data):  # the newest page of a stage may be about another artifact
            pages[stage] = f"/artifacts/artifact/{page.latest_id}"
    return pages


def run_page(result: Mapping[str, Any], outcome: Planner, pages: Mapping[str, str]) -> str:
    """Return the page of a run, from the object that `lightgen run --json` prints and each stage's page in the UI."""
    states = {row.get("label", row["stage"]): row["state"] for row in result["stages"]}
    blocks = [f"### {result['recipe']}: {_summarize(result)}"]
    if result["report"]:
        blocks.append(report_line(outcome.artifacts["report"]))
    if result["scores"]:
        if outcome.recipe.smoke_test:
            blocks.append("**The scores mean nothing**: the recipe is too small to learn from.")
        blocks += scores_markdown(result["scores"])
        blocks += sample_images(RunArtifacts.of(outcome.artifacts.values(), outcome.recipe))
    return "\n\n".join([*blocks, _costs(outcome, states, pages), f"Store: `{result['store']}`"])


def _summarize(result: Mapping[str, Any]) -> str:
    states = [row["state"] for row in result["stages"]]
    ran = pluralize(states.count("ran"), "stage")
    return f"{ran} made, {states.count('cached')} cached, in {format_duration(result['seconds'])}"


def _costs(outcome: Planner, states: Mapping[str, str], pages: Mapping[str, str]) -> str:
    """Return a table of each stage's rows and costs; those of a cached stage are its original run's."""
    rows, total = [], [0.0, 0.0, 0]
    for stage, artifact in outcome.artifacts.items():
        name = f"[{stage}]({pages[stage]})" if stage in pages else stage
        if stage not in states and outcome.check(stage).state != "done":
            rows.append([name, outcome.check(stage).state, *[""] * 5])
            continue
        manifest = artifact.manifest()
        cost = [manifest.timings["seconds"], manifest.device_seconds, sum(file.bytes for file in manifest.files)]
        total = [sum(pair) for pair in zip(total, cost, strict=True)]
        state, count = states.get(stage, "left out"), number(manifest.counts["rows"])
        rows.append([name, state, count, *_format_cost(cost), f"`{artifact.key}`"])
    head = ["stage", "state", "rows", "time", "device time", "size", "key"]
    return table(head, [*rows, ["**in all**", "", "", *_format_cost(total), ""]])


def _format_cost(cost: Sequence[float]) -> list[str]:
    return [format_duration(cost[0]), format_duration(cost[1]), format_bytes(int(cost[2]))]
