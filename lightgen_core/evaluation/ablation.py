"""Scores of an ablation: each point's students on the same prompts, over seeds, and the paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Int

from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.intervals import Interval, crossed_mean, crossed_rate

Verdicts = Int[np.ndarray, "seeds prompts images"]
"""1 where a student's image shows its prompt, 0 where not; every seed has the same prompts and image seeds."""


@dataclass(frozen=True)
class Difference:
    """Paired difference of two points, later minus earlier, by their indices."""

    later: int
    earlier: int
    scores: Mapping[str, Interval]


def seed_scores(verdicts: Verdicts, prompts: Sequence[Prompt]) -> dict[str, Interval]:
    """Return `overall` and each category's score, with intervals for new seeds and new prompts.

    Those of categories are Wilson's, by the effective number of observations.
    """
    by_category = _by_category(verdicts, prompts)
    categories = {name: crossed_rate(*pair) for name, pair in by_category.items()}
    return {"overall": _within(crossed_mean(by_category), 0, 1), **categories}


def paired_difference(later: Verdicts, earlier: Verdicts, prompts: Sequence[Prompt]) -> dict[str, Interval]:
    """Return the difference of two points on the same prompts and seeds, overall and by category."""
    by_category = _by_category(later.astype(np.int64) - earlier, prompts)
    parts = {"overall": by_category, **{name: {name: pair} for name, pair in by_category.items()}}
    return {name: _within(crossed_mean(part), -1, 1) for name, part in parts.items()}


def paired_differences(points: Sequence[Verdicts], prompts: Sequence[Prompt]) -> list[Difference]:
    """Return the differences of all pairs of points, each point minus an earlier one."""
    return [
        Difference(later, earlier, paired_difference(points[later], points[earlier], prompts))
        for earlier, later in combinations(range(len(points)), 2)
    ]


def single_scores(verdicts: Verdicts, prompts: Sequence[Prompt]) -> list[dict[str, float]]:
    """Return each seed's scores, overall and by category, without intervals."""
    by_category = _by_category(verdicts, prompts)
    rows = []
    for seed in range(len(verdicts)):
        scores = {name: float(values[seed].mean()) for name, (values, _) in by_category.items()}
        rows.append({"overall": float(np.mean([*scores.values()])), **scores})
    return rows


def _by_category(values: np.ndarray, prompts: Sequence[Prompt]) -> dict[str, tuple[np.ndarray, list[Any]]]:
    """Return each category's values (seeds, prompts x images) and the caption of each column."""
    images = values.shape[2]
    parts: dict[str, tuple[np.ndarray, list[Any]]] = {}
    for category in dict.fromkeys(prompt.category for prompt in prompts):
        rows = [row for row, prompt in enumerate(prompts) if prompt.category == category]
        groups = [prompts[row].caption for row in rows for _ in range(images)]
        parts[category] = values[:, rows].reshape(len(values), -1), groups
    return parts


def _within(interval: Interval, low: float, high: float) -> Interval:
    return Interval(interval.value, max(low, interval.low), min(high, interval.high), interval.n)
