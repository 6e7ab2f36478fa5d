"""Scores from verdicts: the fraction right per category, and their mean."""

from collections.abc import Sequence

import numpy as np

from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.intervals import bootstrap_mean, macro_mean


def score_table(
    correct: np.ndarray, prompts: Sequence[Prompt], seed: int, resamples: int, *, paired: bool = False
) -> dict[str, dict[str, float | int]]:
    """Return `overall` and each category's score of `correct` (prompts, images), bootstrapped over prompts.

    Of a difference of two students' verdicts on the same prompts and seeds it is the paired difference (`paired`).
    """
    images = correct.shape[1]
    by_category: dict[str, tuple[np.ndarray, list[str]]] = {}
    for category in dict.fromkeys(prompt.category for prompt in prompts):
        rows = [row for row, prompt in enumerate(prompts) if prompt.category == category]
        groups = [prompts[row].caption for row in rows for _ in range(images)]
        by_category[category] = correct[rows].ravel().astype(float), groups
    scores = {"overall": macro_mean(by_category, seed, resamples=resamples, paired=paired).as_dict()}
    for category, (values, groups) in by_category.items():
        scores[category] = bootstrap_mean(values, groups, seed, resamples=resamples, paired=paired).as_dict()
    return scores
