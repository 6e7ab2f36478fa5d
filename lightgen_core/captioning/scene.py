"""Captions of the scene world's own grammar."""

import numpy as np

from lightgen_core.captioning.select import Caption
from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import phrasings
from lightgen_core.scene.split import split


def scene_captions(world: World, rng: np.random.Generator) -> dict[str, list[Caption]]:
    """Return every phrasing of every training meaning, shuffled, by topic.

    Held-out meanings are left out whole, so no phrasing of an evaluation caption is ever trained on.
    """
    topics: dict[str, list[Caption]] = {}
    for meaning in split(world)[0]:
        said = [Caption(text, meaning.category, meaning.canonical) for text in phrasings(meaning)]
        topics.setdefault(meaning.category, []).extend(said)
    return {topic: [found[i] for i in rng.permutation(len(found))] for topic, found in topics.items()}


def held_out_captions(world: World) -> list[str]:
    """Return every phrasing of every meaning that is kept for evaluation."""
    return [text for meaning in split(world)[1] for text in phrasings(meaning)]
