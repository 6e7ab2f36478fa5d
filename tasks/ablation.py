"""ablation: evaluations of a grid's students -> scores over seeds and prompts, paired differences, a figure."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from lightgen_core.evaluation.ablation import Difference, paired_differences, seed_scores, single_scores
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.intervals import Interval
from storage.artifact import Artifact
from storage.tables import read_table
from tasks.ablation_table import ablation_table
from tasks.config.ablation import AblatedRecipe, Grid, GridPoint
from tasks.context.context import StageContext
from tasks.stage import stage

INTERVALS = {
    True: "95 % for new seeds and new prompts; differences are paired on the same prompts and seeds",
    False: "95 % for new prompts, of one training; differences are paired on the same prompts",
}
"""Meaning of the intervals, with several seeds and with one."""


@stage(version=1, config_sections=("name", "seed", "grid"))
def ablation(ctx: StageContext, *evaluations: Artifact) -> None:
    """Write `results.json`, `table.md` and `figure.svg`: each point's scores over its seeds, and paired differences.

    The evaluations come point by point, each with its seeds in order.
    """
    from lightgen_core.report.ablation_chart import ablation_chart

    assert isinstance(ctx.recipe, AblatedRecipe), "the ablation's recipe holds a grid"
    grid = ctx.recipe.grid
    runs = [evaluations[start : start + grid.seeds] for start in range(0, len(evaluations), grid.seeds)]
    read = [[_verdicts(run, point.student) for run in own] for point, own in zip(grid.points, runs, strict=True)]
    prompts = _shared_prompts(grid, [prompts for own in read for prompts, _ in own])
    verdicts = [np.stack([table for _, table in own]) for own in read]
    scores = [seed_scores(each, prompts) for each in verdicts]
    singles = [single_scores(each, prompts) for each in verdicts]
    points = list(map(partial(_point, grid), grid.points, scores, runs, singles))
    result = {
        "recipe": ctx.recipe.name,
        "axes": list(grid.axes),
        "seeds": grid.seeds,
        "prompts": len(prompts),
        "images_per_prompt": verdicts[0].shape[2],
        "judge": evaluations[0].manifest().metrics["judge"],
        "intervals": INTERVALS[grid.seeds > 1],
        "points": points,
        "differences": [_difference(each) for each in paired_differences(verdicts, prompts)],
    }
    ctx.write("results.json", json.dumps(result, indent=1).encode())
    ctx.write("table.md", ablation_table(result).encode())
    overall = [(point.labels, score["overall"]) for point, score in zip(grid.points, scores, strict=True)]
    ctx.write("figure.svg", ablation_chart(grid.axes, overall).encode())
    ctx.counts = {"rows": len(points), "runs": len(evaluations), "prompts": len(prompts)}


def _verdicts(evaluation: Artifact, student: str) -> tuple[list[Prompt], np.ndarray]:
    """Return an evaluation's prompts, and a student's verdicts (prompts, images)."""
    import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

    columns = ["id", "student", "prompt", "category", "caption", "meaning", "correct"]
    table = read_table(evaluation, "^samples", columns)
    rows: pa.Table = table.filter(pc.equal(table["student"], student)).sort_by(
        [("prompt", "ascending"), ("id", "ascending")]
    )
    first = {row["prompt"]: row for row in rows.select(columns[2:6]).to_pylist()}
    prompts = [Prompt(row["caption"], row["category"], row["meaning"]) for row in first.values()]
    return prompts, rows["correct"].to_numpy().astype(np.int64).reshape(len(prompts), -1)


def _shared_prompts(grid: Grid, each: Sequence[list[Prompt]]) -> list[Prompt]:
    """Return the prompts of all runs. Raises ValueError if they differ, so that nothing could be paired."""
    for run, prompts in enumerate(each):
        if prompts != each[0]:
            labels = grid.points[run // grid.seeds].labels
            raise ValueError(
                f"point {labels} was evaluated on other prompts than {grid.points[0].labels}; an axis must leave the "
                "evaluation as it is: ablate a field of another section"
            )
    return each[0]


def _point(
    grid: Grid, point: GridPoint, scores: dict[str, Interval], runs: Sequence[Artifact], single: list[dict[str, float]]
) -> dict[str, Any]:
    return {
        "values": dict(zip(grid.axes, point.labels, strict=True)),
        "student": point.student,
        "scores": {name: score.as_dict() for name, score in scores.items()},
        "runs": [{"evaluation": run.key, "scores": own} for run, own in zip(runs, single, strict=True)],
        "data": _data_of(runs[0]),
    }


def _data_of(evaluation: Artifact) -> dict[str, int]:
    """Return what a point's students learned from: captions, images, and those that dedup kept."""
    pretrain = _input(evaluation, "pretrain")
    dedup = _input(pretrain, "dedup")
    synthesis = _input(dedup, "synthesis")
    counts, config = dedup.manifest().counts, evaluation.manifest().config["evaluation"]
    return {
        "captions": _input(synthesis, "captions").manifest().counts["rows"],
        "images": counts["rows"],
        "kept": counts["kept"],
        "steps": config.get("checkpoint") or pretrain.manifest().counts["steps"],
    }


def _input(artifact: Artifact, stage_: str) -> Artifact:
    return Artifact(artifact.store, stage_, artifact.manifest().inputs[stage_])


def _difference(difference: Difference) -> dict[str, Any]:
    """Return a difference as plain data; points are named by their numbers, from 0."""
    return {
        "later": difference.later,
        "earlier": difference.earlier,
        "scores": {name: score.as_dict() for name, score in difference.scores.items()},
    }
