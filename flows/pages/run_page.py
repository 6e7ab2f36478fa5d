"""Markdown page of a run: scores, cost of each stage, path of the report."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

from flows.pages.live import API_ERRORS, UiArtifact, page_key
from flows.pages.markdown import scores_markdown, table
from flows.plan import Planner
from lightgen_core.report.formats import format_bytes, format_duration, number
from storage.plural import pluralize

log = logging.getLogger("lightgen")


def show_run_page(result: Mapping[str, Any], outcome: Planner) -> None:
    """Add a page to the flow run that is ending; log a failure."""
    log.info(
        "%s: %s%s", result["recipe"], _in_short(result), f"; report: {result['report']}" if result["report"] else ""
    )
    key = page_key(result["recipe"], "run")
    about = f"`{result['recipe']}`: scores, costs and the report of a run"
    page = UiArtifact("markdown", key=key, description=about, flow_run_id=UUID(runtime.flow_run.id))
    try:
        page.show(run_page(result, outcome, _pages(result["recipe"], outcome)))
    except API_ERRORS as error:
        log.warning("Prefect's server does not take the page of the run (%s)", error)
    except Exception:  # a page that cannot be drawn must not end a run of days
        log.exception("the page of the run in the Prefect UI could not be drawn; the run is not touched by that")


def _pages(recipe: str, outcome: Planner) -> dict[str, str]:
    """Return the UI addresses of the stages' pages; a cached stage has its original run's."""
    stages = {page_key(recipe, stage): (stage, artifact) for stage, artifact in outcome.artifacts.items()}
    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=list(stages)))
    pages = {}
    for page in get_client(sync_client=True).read_latest_artifacts(artifact_filter=wanted):
        stage, artifact = stages[str(page.key)]
        if artifact.key in str(page.data):  # the newest page of a stage may be about another artifact
            pages[stage] = f"/artifacts/artifact/{page.latest_id}"
    return pages


def run_page(result: Mapping[str, Any], outcome: Planner, pages: Mapping[str, str]) -> str:
    """Return the page of a run.

    Args:
        result: the object that `lightgen run --json` prints.
        outcome: the current state of every stage.
        pages: stage -> address of its page in the UI, if it has one.
    """
    states = {row["stage"]: row["state"] for row in result["stages"]}
    told = [f"### {result['recipe']}: {_in_short(result)}"]
    if result["report"]:
        told.append(f"Report: `{result['report']}`")
    if result["scores"]:
        told += scores_markdown(result["scores"])
    return "\n\n".join([*told, _costs(outcome, states, pages), f"Store: `{result['store']}`"])


def _in_short(result: Mapping[str, Any]) -> str:
    states = [row["state"] for row in result["stages"]]
    made = pluralize(states.count("ran"), "stage")
    return f"{made} made, {states.count('cached')} cached, in {format_duration(result['seconds'])}"


def _costs(outcome: Planner, states: Mapping[str, str], pages: Mapping[str, str]) -> str:
    """Return a table of each stage's rows and costs; those of a cached stage are its original run's."""
    rows, total = [], [0.0, 0.0, 0]
    for stage, artifact in outcome.artifacts.items():
        name = f"[{stage}]({pages[stage]})" if stage in pages else stage
        if stage not in states and (found := outcome.check(stage).state) != "done":
            rows.append([name, found, *[""] * 5])
            continue
        manifest = artifact.manifest()
        cost = [manifest.timings["seconds"], manifest.device_seconds, sum(file.bytes for file in manifest.files)]
        total = [before + each for before, each in zip(total, cost, strict=True)]
        rows.append(
            [name, states.get(stage, "left out"), number(manifest.counts["rows"]), *_told(cost), f"`{artifact.key}`"]
        )
    head = ["stage", "state", "rows", "time", "device time", "size", "key"]
    return table(head, [*rows, ["**in all**", "", "", *_told(total), ""]])


def _told(cost: Sequence[float]) -> list[str]:
    return [format_duration(cost[0]), format_duration(cost[1]), format_bytes(int(cost[2]))]
