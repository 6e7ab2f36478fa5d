"""What the zoo's networks are trained on: meanings of the training split, every category equally often."""

import math
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
    """A world with every colour and shape of the vocabulary."""
    return World.model_validate({"colors": tuple(COLORS), "shapes": SHAPES, **changes})


def seen_meanings() -> list[Meaning]:
    """The meanings that text encoders may be trained on, of the world with every colour and shape.

    None is held out in any world made of the first colours and the first shapes of the vocabulary, the default
    world among them, so held-out captions of such a world are new to the zoo as well.
    """
    colors = tuple(COLORS)
    sizes = product(range(2, len(colors) + 1), range(3, len(SHAPES) + 1))
    worlds = [World(colors=colors[:c], shapes=SHAPES[:s]) for c, s in sizes]
    hidden = {meaning for world in worlds for meaning in split(world)[1]}
    return [meaning for meaning in meanings(full_world()) if meaning not in hidden]


def mirrored(meaning: Meaning) -> Meaning:
    """The meaning of the same words with places or colours exchanged; itself where nothing can be."""
    if len(meaning.objects) < 2:
        return meaning
    first, second = meaning.objects
    if meaning.relation is not None:
        return replace(meaning, objects=(second, first))
    return replace(meaning, objects=(Object(first.shape, second.color), Object(second.shape, first.color)))


def balanced(members: list[Meaning], count: int, rng: np.random.Generator) -> list[Meaning]:
    """`count` meanings drawn with replacement, the categories in turn."""
    categories: dict[str, list[Meaning]] = {}
    for meaning in members:
        categories.setdefault(meaning.category, []).append(meaning)
    groups = list(categories.values())
    return [groups[i % len(groups)][rng.integers(len(groups[i % len(groups)]))] for i in range(count)]


def pictures(world: World, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(count, size, size, 3) pictures of training meanings of `world`."""
    train, _ = split(world)
    return np.stack([render(meaning, world, rng) for meaning in balanced(train, count, rng)])


def learning_rate(step: int, steps: int, warmup: int = 50) -> float:
    """Share of the peak rate: a linear warm-up, then half a cosine down to zero at the last step."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
