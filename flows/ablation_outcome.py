"""The result of an ablation: what `lightgen ablate --json` prints, with or without Prefect."""

import json
import logging
import time
from typing import Any

from flows.ablation import AblationRequest
from flows.outcome import cached_rows

log = logging.getLogger("lightgen")


def ablation_result(request: AblationRequest, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the result of an ablation that has ended, from the rows of its stages."""
    artifact, states = request.last.artifact, [row["state"] for row in rows]
    return {
        "recipe": request.recipe.name,
        "store": request.store.uri,
        "seconds": round(seconds, 3),
        "stages": {
            "of_all_runs": request.stages_of_runs,
            "different": len(rows) - 1,
            "ran": states[:-1].count("ran"),
            "cached": states[:-1].count("cached"),
        },
        "key": artifact.key,
        "uri": artifact.uri,
        "table": artifact.uri_of("table.md"),
        "figure": artifact.uri_of("figure.svg"),
        "results": json.load(artifact.open("results.json")),
    }


def cached_ablation(request: AblationRequest) -> dict[str, Any] | None:
    """Return the result of an ablation with nothing to do, or None if a stage is missing; Prefect is not needed."""
    started = time.monotonic()
    if any(planned.artifact.check().state != "done" for planned in request.chosen):
        return None
    if (rows := cached_rows(request)) is None:
        return None
    log.info("%s: nothing to do; no Prefect server is configured, so it is not recorded", request.run_name)
    return ablation_result(request, rows, time.monotonic() - started)
