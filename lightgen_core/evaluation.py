"""Scoring a student as GenEval does: held-out captions, a detector, the unweighted mean of six categories."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightgen_core.config import World
from lightgen_core.scene.detect import satisfies
from lightgen_core.scene.grammar import parse, phrasings
from lightgen_core.scene.split import split
from lightgen_core.scene.vocabulary import CATEGORIES
from lightgen_core.statistics import bootstrap_mean, overall


@dataclass(frozen=True)
class Prompt:
    """A caption of a held-out meaning."""

    caption: str
    category: str
    meaning: str


def evaluation_prompts(world: World, per_category: int, seed: int) -> list[Prompt]:
    """Return `per_category` different captions of each category, evenly over the category's held-out meanings.

    A category whose meanings have fewer phrasings than that gives all of them.
    """
    rng = np.random.default_rng(seed)
    prompts: list[Prompt] = []
    for category in CATEGORIES:
        queues = []
        for meaning in (meaning for meaning in split(world)[1] if meaning.category == category):
            said = phrasings(meaning)
            queues.append([Prompt(said[i], category, meaning.canonical) for i in rng.permutation(len(said))])
        turns = range(max(map(len, queues), default=0))
        prompts += [queue[turn] for turn in turns for queue in queues if turn < len(queue)][:per_category]
    return prompts


def score_pictures(pictures: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Return, for each picture (n, height, width, 3), whether it shows what its caption says: (n,) bool."""
    return np.array([satisfies(picture, parse(caption)) for picture, caption in zip(pictures, captions, strict=True)])


def shuffled(prompts: Sequence[Prompt], seed: int) -> np.ndarray:
    """Return, for each prompt, the index of another one with another meaning: the control of the scores.

    Every prompt is used once, as far as meanings allow: the prompts are laid out at random in a ring and each takes the
    next one that means something else.
    """
    ring = np.random.default_rng(seed).permutation(len(prompts))
    other = np.empty(len(prompts), dtype=np.int64)
    for place, index in enumerate(ring):
        turn = 1
        while prompts[ring[(place + turn) % len(ring)]].meaning == prompts[index].meaning:
            turn += 1
            if turn > len(ring):
                raise ValueError("all prompts mean the same: there is nothing to shuffle; evaluate more categories")
        other[index] = ring[(place + turn) % len(ring)]
    return other


def score_table(
    correct: np.ndarray, prompts: Sequence[Prompt], seed: int, resamples: int
) -> dict[str, dict[str, float | int]]:
    """Return `overall` and each category's score with a 95 % interval, bootstrapped over prompts.

    Args:
        correct: (prompts, images) bool.
        prompts: one for each row.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    images = correct.shape[1]
    by_category: dict[str, tuple[np.ndarray, list[str]]] = {}
    for category in dict.fromkeys(prompt.category for prompt in prompts):
        rows = [row for row, prompt in enumerate(prompts) if prompt.category == category]
        groups = [prompts[row].caption for row in rows for _ in range(images)]
        by_category[category] = correct[rows].ravel().astype(float), groups
    scores = {"overall": overall(by_category, seed, resamples=resamples).as_dict()}
    for category, (values, groups) in by_category.items():
        scores[category] = bootstrap_mean(values, groups, seed, resamples=resamples).as_dict()
    return scores
