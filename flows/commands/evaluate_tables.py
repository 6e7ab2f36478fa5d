"""The result of an evaluation for a person: lines of a terminal, and a page of markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.commands.console import table
from storage.plural import pluralize

INTERVALS = "intervals: 95 %, bootstrapped over prompts (Wilson's where all or none are right)"

Rows = list[tuple[str, str, str]]


def describe_evaluation(result: Mapping[str, Any]) -> str:
    """Return a model's scores as a table with intervals and image counts, and lines on what they are of."""
    lines = table(_score_rows(result)) if result["scores"] else []
    return "\n".join([*lines, *_facts(result)])


def describe_evaluation_as_markdown(result: Mapping[str, Any]) -> str:
    """Return the same as a page of markdown."""
    lines = [f"# {result['model']} on {result['benchmark']}", ""]
    if result["scores"]:
        lines += [*_markdown(_score_rows(result)), ""]
    return "\n".join([*lines, *(f"- {fact}" for fact in _facts(result)), ""])


def _score_rows(result: Mapping[str, Any]) -> Rows:
    rows = [("score", str(result["judge"]), "pictures")]
    return rows + [(name, _interval(score), str(score["n"])) for name, score in result["scores"].items()]


def _facts(result: Mapping[str, Any]) -> list[str]:
    """Return lines on prompts, contamination and cost."""
    about = f"prompts: {result['prompts']}, seed {result['seed']}"
    lines = [f"{about}; {INTERVALS}" if result["scores"] else f"{about}; nobody judges these pictures"]
    return [*lines, _contamination(result["contamination"]), _cost(result)]


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
    made = f"{pluralize(images['made'], 'picture')} made" + (f" ({rate:.2f} a second)" if rate else "")
    kept = f", {images['kept']:,} kept from before" if images["kept"] else ""
    return f"cost: {made}{kept}, {images['seconds_judging']:.1f} s judging, {result['seconds']:.1f} s in all"


def _interval(score: Mapping[str, float]) -> str:
    return f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as a table of markdown; the first is its head."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
