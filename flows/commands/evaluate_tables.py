"""The result of an evaluation for a person: lines of a terminal, and a page of markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.commands.console import table
from storage.plural import pluralize

INTERVALS = "intervals: 95 %, bootstrapped over prompts (Wilson's where all or none are right)"
METRIC_INTERVALS = (
    "metrics: 95 % intervals for other prompts and images, references fixed; over halves of the prompts, or where the "
    "value is a mean bootstrapped over prompts"
)

Rows = list[tuple[str, str, str]]


def describe_evaluation(result: Mapping[str, Any]) -> str:
    """Return a model's scores as a table with intervals and image counts, and lines on what they are of."""
    lines = table(_score_rows(result)) if result["scores"] else []
    lines += ["", *table(_metric_rows(result)), ""] if result["metrics"] else []
    return "\n".join([*lines, *_facts(result)])


def describe_evaluation_as_markdown(result: Mapping[str, Any]) -> str:
    """Return the same as a page of markdown."""
    lines = [f"# {result['model']} on {result['benchmark']}", ""]
    if result["scores"]:
        lines += [*as_markdown(_score_rows(result)), ""]
    if result["metrics"]:
        lines += [*as_markdown(_metric_rows(result)), ""]
    return "\n".join([*lines, *(f"- {fact}" for fact in _facts(result)), ""])


def _score_rows(result: Mapping[str, Any]) -> Rows:
    rows = [("score", str(result["judge"]), "images")]
    return rows + [(name, _interval(score), str(score["n"])) for name, score in result["scores"].items()]


def _metric_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("metric", "value", "images", "space", "meaning")]
    for name, found in result["metrics"].items():
        value = f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]"
        rows.append((name, value, str(found["n"]), found["space"], found["meaning"]))
    return rows


def _compared(result: Mapping[str, Any]) -> list[str]:
    """Return lines on what the metrics compare with."""
    lines = [
        f"{name}: {given['read']:,} of {given['images']:,} images of {given['location']}"
        for name, given in result["compared_with"].items()
    ]
    if found := result["metrics"].get("memorisation"):
        nearest = found["closest"][0]
        lines.append(
            f"memorisation: {found['count']} of {found['n']:,} images within {found['threshold']:g} of a training "
            f"image, as {found['control']:.1%} of training images are of another; the nearest is "
            f"{nearest['image']}, {nearest['distance']:.3f} from {nearest['training']}"
        )
    if lines or result["metrics"]:
        lines.append(METRIC_INTERVALS)
    return lines


def _facts(result: Mapping[str, Any]) -> list[str]:
    """Return lines on prompts, contamination and cost."""
    about = f"prompts: {result['prompts']}, seed {result['seed']}"
    lines = [f"{about}; {INTERVALS}" if result["scores"] else f"{about}; nobody judges these images"]
    return [*lines, *_compared(result), _contamination(result["contamination"]), _cost(result)]


def _contamination(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "contamination: not known, since no store here holds what the model was trained on"
    return (
        f"contamination: {found['contaminated_prompts']:,} of {pluralize(found['prompts'], 'prompt')} are in "
        f"{pluralize(found['captions'], 'training caption')}; captions that equal a prompt: {found['exact']:,}, that "
        f"contain {found['words_in_a_row']} words of one in a row, or all of a shorter one: {found['n-gram']:,}"
    )


def _cost(result: Mapping[str, Any]) -> str:
    images = result["images"]
    rate = images["images_per_second"]
    made = f"{pluralize(images['made'], 'image')} made" + (f" ({rate:.2f} a second)" if rate else "")
    kept = f", {images['kept']:,} kept from before" if images["kept"] else ""
    return f"cost: {made}{kept}, {images['seconds_judging']:.1f} s judging, {result['seconds']:.1f} s in all"


def _interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def as_markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as a table of markdown; the first is its head."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
