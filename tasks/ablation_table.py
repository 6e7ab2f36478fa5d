"""An ablation's results as Markdown, for the terminal, the artifact and the Prefect UI."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.plural import pluralize

MAX_PAIRED = 6
"""Points up to which all pairs are compared in the table; beyond, each with the first. `results.json` has all."""


def ablation_table(result: Mapping[str, Any]) -> str:
    """Return the scores of each point, and the paired differences; `result` as in `results.json`."""
    points, axes = result["points"], result["axes"]
    categories = list(points[0]["scores"])
    head = [*axes, "unique captions", "images kept", "steps", "overall (95 %)", *categories[1:]]
    rows = []
    for point in points:
        data, scores = point["data"], point["scores"]
        cells = [*map(_value, point["values"].values()), *(f"{data[name]:,}" for name in ("captions", "kept", "steps"))]
        rows.append(
            [*cells, _interval(scores["overall"]), *(f"{scores[name]['value']:.3f}" for name in categories[1:])]
        )
    title = f"### {result['recipe']}: {' and '.join(axes)}"
    per_point = f"{pluralize(result['seeds'], 'seed')} for each point"
    asked = f"{pluralize(result['prompts'], 'prompt')} x {pluralize(result['images_per_prompt'], 'image')}"
    note = f"{per_point}, {asked}, judged by {result['judge']}. Intervals: {result['intervals']}."
    blocks = [title, note, _table(head, rows)]
    if chosen := [each for each in result["differences"] if len(points) <= MAX_PAIRED or each["earlier"] == 0]:
        names = [", ".join(map(_value, point["values"].values())) for point in points]
        compared = [[f"{names[each['later']]} - {names[each['earlier']]}", *_differences(each)] for each in chosen]
        blocks.append(_table(["paired difference", "overall (95 %)", *categories[1:]], compared))
    return "\n\n".join(blocks) + "\n"


def _differences(difference: Mapping[str, Any]) -> list[str]:
    overall, *others = difference["scores"].values()
    return [_interval(overall, "+"), *(f"{score['value']:+.3f}" for score in others)]


def _interval(score: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{score[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned for a terminal."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    lines = [head, rule, *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
