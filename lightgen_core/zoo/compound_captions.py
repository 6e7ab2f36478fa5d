"""Captions that name more than a meaning can: up to three groups of coloured, counted shapes.

They have no image. A text encoder that reads only the scene world's captions learns their few hundred meanings by
heart; of these captions there are millions, so it has to read colours and numbers word by word.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from lightgen_core.scene.grammar import COLORED, CONJUNCTIONS, GROUPS, ONE, PREFIXES, SUFFIXES
from lightgen_core.scene.meaning import NUMBER_WORDS, Meaning, Object
from lightgen_core.scene.vocabulary import COLORS, NUMBERS, SHAPES, plural, with_article

GROUPS_OF_A_CAPTION = (1, 2, 2, 3, 3)
COUNTS = (1, 1, *NUMBERS.values())
COLORED_SHARE = 0.75

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Group:
    """Objects of one shape in a caption: how many, and their colour if it is said."""

    object: Object
    count: int


def meanings_within(groups: Sequence[Group]) -> set[Meaning]:
    """Return the scene world's meanings that some of a caption's objects make; counts whatever their colour."""
    found = {Meaning("counting", (Object(g.object.shape),), count=g.count) for g in groups if g.count > 1}
    single = [group.object for group in groups if group.count == 1]
    found |= {Meaning("colors" if obj.color else "single_object", (obj,)) for obj in single}
    for a, b in combinations(single, 2):
        if a.color and b.color and a.color != b.color:
            found.add(Meaning("color_attr", (a, b)))
        elif a.color is None and b.color is None:
            found.add(Meaning("two_object", (a, b)))
    return found


def compound_caption(seen: Set[Meaning], rng: np.random.Generator) -> tuple[str, list[Group]]:
    """Sample a caption of the zoo's vocabulary that is no caption of the scene world, and what it says.

    seen: meanings that may be trained on; no part of the caption makes another.
    """
    while True:
        shapes = rng.permutation(len(SHAPES))[: _pick(GROUPS_OF_A_CAPTION, rng)]
        colors = [_pick(tuple(COLORS), rng) if rng.random() < COLORED_SHARE else None for _ in shapes]
        groups = [Group(Object(SHAPES[s], color), _pick(COUNTS, rng)) for s, color in zip(shapes, colors, strict=True)]
        if _is_compound(groups) and meanings_within(groups) <= seen:
            return _phrase(groups, rng), groups


def _is_compound(groups: Sequence[Group]) -> bool:
    """Return whether a caption says more than one meaning: three groups, or a number beside something else."""
    if len(groups) == 1:
        return groups[0].count > 1 and groups[0].object.color is not None
    return len(groups) > 2 or any(group.count > 1 for group in groups)


def _phrase(groups: Sequence[Group], rng: np.random.Generator) -> str:
    words = [_pick(PREFIXES, rng), _group(groups[0], rng)]
    for group in groups[1:]:
        words += [_pick(CONJUNCTIONS, rng), _group(group, rng)]
    return " ".join(filter(None, [*words, _pick(SUFFIXES, rng)]))


def _group(group: Group, rng: np.random.Generator) -> str:
    shape, color = group.object.shape, group.object.color
    noun = shape if group.count == 1 else plural(shape)
    if color is not None:
        forms = COLORED if group.count == 1 else [form for form in COLORED if " is " not in form]
        noun = _pick(forms, rng).format(color=color, shape=noun)
    if group.count == 1:
        one = _pick(ONE, rng)
        return with_article(noun) if one == "a" else f"{one} {noun}"
    number = _pick((NUMBER_WORDS[group.count], str(group.count)), rng)
    return " ".join(filter(None, (_pick(GROUPS, rng), number, noun)))


def _pick(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return choices[int(rng.integers(len(choices)))]
