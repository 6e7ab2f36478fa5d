"""Captions of the scene grammar."""

import numpy as np

from lightgen_core.captioning.select import Caption
from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import phrasings
from lightgen_core.scene.split import split


def scene_captions(world: World, rng: np.random.Generator) -> dict[str, list[Caption]]:
    """Return all phrasings of the training meanings by topic, shuffled.

    Held-out meanings are left out with all phrasings, so none of an evaluation caption is ever trained on.
    """
    topics: dict[str, list[Caption]] = {}
    for meaning in split(world)[0]:
        captions = [Caption(text, meaning.category, meaning.canonical) for text in phrasings(meaning)]
        topics.setdefault(meaning.category, []).extend(captions)
    return {topic: [captions[i] for i in rng.permutation(len(captions))] for topic, captions in topics.items()}


def held_out_captions(world: World) -> list[str]:
    """Return all phrasings of the meanings held out for evaluation."""
    return [text for meaning in split(world)[1] for text in phrasings(meaning)]
