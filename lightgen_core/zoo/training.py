"""Training data of the zoo: training meanings, categories in equal numbers."""

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import meanings
from lightgen_core.scene.meaning import Meaning, Object
from lightgen_core.scene.render import render
from lightgen_core.scene.split import split
from lightgen_core.scene.vocabulary import COLORS, SHAPES


def full_world(**changes: object) -> World:
    """Return a world with every colour and shape of the vocabulary."""
    return World.model_validate({"colors": tuple(COLORS), "shapes": SHAPES, **changes})


def seen_meanings() -> list[Meaning]:
    """Return the full world's meanings that text encoders may be trained on.

    None is held out in any world made of the first colours and the first shapes of the vocabulary, the default
    world among them, so held-out captions of such a world are new to the zoo as well.
    """
    colors = tuple(COLORS)
    sizes = product(range(2, len(colors) + 1), range(3, len(SHAPES) + 1))
    worlds = [World(colors=colors[:c], shapes=SHAPES[:s]) for c, s in sizes]
    held_out = {meaning for world in worlds for meaning in split(world)[1]}
    return [meaning for meaning in meanings(full_world()) if meaning not in held_out]


def mirrored(meaning: Meaning) -> Meaning:
    """Return the meaning with positions or colours exchanged, if it has two."""
    if len(meaning.objects) < 2:
        return meaning
    first, second = meaning.objects
    if meaning.relation is not None:
        return replace(meaning, objects=(second, first))
    return replace(meaning, objects=(Object(first.shape, second.color), Object(second.shape, first.color)))


def balanced(members: list[Meaning], count: int, rng: np.random.Generator) -> list[Meaning]:
    """Sample `count` meanings with replacement, the categories in turn."""
    categories: dict[str, list[Meaning]] = {}
    for meaning in members:
        categories.setdefault(meaning.category, []).append(meaning)
    groups = list(categories.values())
    return [groups[i % len(groups)][rng.integers(len(groups[i % len(groups)]))] for i in range(count)]


def render_images(world: World, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render training meanings of `world`: (count, size, size, 3)."""
    train, _ = split(world)
    return np.stack([render(meaning, world, rng) for meaning in balanced(train, count, rng)])
