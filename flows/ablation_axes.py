"""Axes of an ablation: from names and values to the overrides of each point, and the student that is scored."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ruamel.yaml import YAMLError

from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from flows.load import parse_yaml
from lightgen_core.config import DpoConfig
from tasks.config.recipe import Recipe

Student = Literal["pretrain", "dpo"]

FIELDS = {
    "captions": "captions.count",
    "volume": "synthesis.count",
    "iterations": "pretrain.steps",
    "dedup": "dedup.threshold",
    "preference": "dpo.objective",
    "checkpoints": "evaluation.checkpoint",
}
"""Named axes and the recipe field that each varies."""
DEDUP_OFF = {
    "dedup.threshold": 1,
    "dedup.copies.hash_bits": 0,
    "dedup.copies.correlation": 1,
    "dedup.copies.semantic_correlation": 1,
}
"""Overrides of `--axis dedup --values off`: only exact repetitions are dropped."""
OBJECTIVES: tuple[str, ...] = get_args(DpoConfig.model_fields["objective"].annotation)
DEFAULTS: Mapping[str, Callable[[Recipe], list[Any]]] = {
    "captions": lambda recipe: [max(1, 3 * recipe.captions.count // 200), recipe.captions.count],
    "volume": lambda recipe: [recipe.synthesis.count // 3, recipe.synthesis.count],
    "iterations": lambda recipe: [recipe.pretrain.steps // 2, recipe.pretrain.steps],
    "checkpoints": lambda recipe: [recipe.pretrain.steps * quarter // 4 for quarter in (1, 2, 3, 4)],
    "dedup": lambda recipe: ["off", recipe.dedup.threshold],
    "preference": lambda recipe: ["none", "sft", recipe.dpo.objective],
}
"""Values of named axes where none are given: few against the recipe's own."""
TUNING = ("dpo", "pairs", "average")
"""Sections that pre-training does not read: an axis on one of them scores the tuned student."""
SHARED = ("name", "purpose", "seed", "training_seed", "world", "evaluation", "report")
"""Sections that points share, so that all are scored on the same prompts with the same seeds."""


@dataclass(frozen=True)
class AxisPoint:
    """A point of the grid: a value for each axis, the overrides that make it, and the student to score."""

    values: tuple[Any, ...]
    overrides: tuple[str, ...]
    student: Student


def parse_values(text: str) -> list[Any]:
    """Return the values of an axis: "100,200", "off, 0.9995", "[64, 128], [256]", each read as YAML."""
    try:
        values = parse_yaml(f"[{text}]")
    except YAMLError as error:
        raise UserError(f"--values {text!r} is not a list of YAML values, such as 100,200") from error
    if len({json.dumps(value, sort_keys=True) for value in values}) < len(values) or not values:
        raise UserError(f"--values {text!r}: found {len(values)} values; expected one or more, each once")
    return list(values)


def default_values(name: str, recipe: Recipe) -> list[Any]:
    """Return the values of a named axis that follow from the recipe. Raises UserError for a field of the recipe."""
    if name not in DEFAULTS:
        field_of(name)
        raise UserError(
            f"--axis {name} needs --values: those of {', '.join(DEFAULTS)} follow from the recipe, others not"
        )
    return [*dict.fromkeys(DEFAULTS[name](recipe))]


def grid_points(
    axes: Sequence[tuple[str, Sequence[Any]]], student: Student | None = None, kept: Sequence[int] = ()
) -> list[AxisPoint]:
    """Return the points of a grid in order, the last axis fastest.

    Args:
        axes: a name of `FIELDS` or a recipe field, and its values; one axis, or two.
        student: the student to score; None: the tuned one where an axis is about tuning, the pre-trained one elsewhere.
        kept: `pretrain.keep_steps` of the recipe; where those hold all checkpoints, its own training is scored.

    Raises:
        UserError: no axis or more than two, one twice, one that changes the evaluation, or an unknown name or value.
    """
    names = [name for name, _ in axes]
    fields = [field_of(name) for name in names]
    if not 1 <= len(axes) <= 2 or len(set(fields)) < len(fields):
        raise UserError(f"found axes {', '.join(names) or 'none'}; expected one, or two different ones for a grid")
    common = _kept_steps(dict(axes).get("checkpoints", ()), kept)
    points = []
    for values in itertools.product(*(values for _, values in axes)):
        lines = [line for name, value in zip(names, values, strict=True) for line in _overrides(name, value)]
        points.append(AxisPoint(tuple(values), (*common, *lines), _student(names, values, student)))
    return points


def field_of(name: str) -> str:
    """Return the recipe field that an axis varies. Raises UserError as `grid_points`."""
    if name in FIELDS:
        return FIELDS[name]
    section = name.partition(".")[0]
    if section in SHARED:
        hint = "--seeds varies the seed of training" if "seed" in name else "ablate a field of another section"
        raise UserError(
            f"--axis {name} would change what the points are compared on; they share {', '.join(SHARED)}: {hint}."
        )
    if "." not in name:
        raise UserError(
            f"there is no axis {name!r}.{did_you_mean(name, FIELDS)} Axes: {', '.join(FIELDS)}, or a field of the "
            "recipe, such as pretrain.batch_size."
        )
    return name


def _kept_steps(values: Sequence[Any], kept: Sequence[int]) -> tuple[str, ...]:
    """Return the line by which one training keeps the students of all checkpoints; none where it keeps them already."""
    if wrong := [value for value in values if not isinstance(value, int) or isinstance(value, bool) or value < 1]:
        raise UserError(f"--axis checkpoints: found {wrong[0]!r}; expected steps of the training, such as 100,200")
    if set(values) <= set(kept):
        return ()
    return (f"pretrain.keep_steps={json.dumps(sorted({*kept, *values}))}",)


def _overrides(name: str, value: Any) -> list[str]:
    """Return the lines of `--set` that an axis' value means."""
    if name == "dedup" and (value == "off" or value is False):  # 0 is a threshold
        return [f"{field}={json.dumps(each)}" for field, each in DEDUP_OFF.items()]
    if name == "preference":
        if value not in ("none", *OBJECTIVES):
            hint = did_you_mean(str(value), ("none", *OBJECTIVES))
            raise UserError(f"--axis preference has no {value!r}.{hint} Values: none, {', '.join(OBJECTIVES)}.")
        return [] if value == "none" else [f"dpo.objective={value}"]
    return [f"{field_of(name)}={json.dumps(value)}"]


def _student(names: Sequence[str], values: Sequence[Any], student: Student | None) -> Student:
    if "checkpoints" in names:
        tuned = [name for name in names if name == "preference" or name.partition(".")[0] in TUNING]
        if tuned or student == "dpo":
            raise UserError(
                f"--axis checkpoints scores students of pre-training, and tuning begins with its last one; leave "
                f"{f'--axis {tuned[0]}' if tuned else '--student dpo'} out"
            )
        return "pretrain"
    if "preference" in names:
        untuned = values[names.index("preference")] == "none"
        if student == "pretrain" and not untuned:
            raise UserError("--axis preference compares tuned students; leave --student pretrain out")
        return "pretrain" if untuned else "dpo"
    tuning = [name for name in names if name.partition(".")[0] in TUNING]
    if student == "pretrain" and tuning:
        raise UserError(f"--axis {tuning[0]} leaves the pre-trained student as it is; leave --student pretrain out")
    return student or ("dpo" if tuning else "pretrain")
