"""Confusions of a student in the scene world: asked for against found, by the detector that scores it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.detect import relations
from lightgen_core.scene.meaning import NUMBER_WORDS, Meaning
from lightgen_core.scene.objects import Detection, find_objects
from lightgen_core.scene.vocabulary import COLORS, RELATIONS, SHAPES, plural, with_article

Regions = Sequence[Detection | None]
"""Objects of one image, None for a region that is none of the vocabulary's."""

NO_OBJECT, UNKNOWN, SEVERAL, NEITHER = "no object", "unclear", "several", "no such pair"
"""Findings that are no word of the vocabulary."""


@dataclass(frozen=True)
class ConfusionMatrix:
    """Numbers of answers by what was asked for and what was found.

    Attributes:
        meaning: one sentence on the rows and columns.
        asked, found: words of the rows and of the columns.
        counts: (rows, columns); an answer is right where both words are equal.
    """

    title: str
    meaning: str
    asked: tuple[str, ...]
    found: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def describe_objects(image: NDArray[np.uint8]) -> str:
    """Return the objects of `image` (height, width, 3) in words: "2 red circles, a blue square"."""
    names = Counter(f"{each.color} {each.shape}" if each else UNKNOWN for each in find_objects(image))
    unclear = names.pop(UNKNOWN, 0)
    parts = [with_article(name) if count == 1 else f"{count} {plural(name)}" for name, count in names.items()]
    parts += ["something unclear"] if unclear else []
    return ", ".join(parts) or "no object"


def confusion_matrices(images: Iterable[NDArray[np.uint8]], meanings: Iterable[Meaning]) -> tuple[ConfusionMatrix, ...]:
    """Return the confusions of counts, shapes, colours and relations; those that no meaning asks for are left out."""
    answers: dict[str, Counter[tuple[str, str]]] = {title: Counter() for title in _QUESTIONS}
    for image, meaning in zip(images, meanings, strict=True):
        regions = find_objects(image)
        for title, (_, _, ask) in _QUESTIONS.items():
            answers[title].update(ask(meaning, regions))
    return tuple(
        _matrix(title, meaning, order, answers[title])
        for title, (meaning, order, _) in _QUESTIONS.items()
        if answers[title]
    )


def _matrix(title: str, meaning: str, order: Sequence[str], answers: Counter[tuple[str, str]]) -> ConfusionMatrix:
    asked = tuple(word for word in order if any(word == pair[0] for pair in answers))
    found = tuple(word for word in order if word in asked or any(word == pair[1] for pair in answers))
    counts = tuple(tuple(answers[row, column] for column in found) for row in asked)
    return ConfusionMatrix(title, meaning, asked, found, counts)


def _counts(meaning: Meaning, regions: Regions) -> list[tuple[str, str]]:
    if meaning.category != "counting":
        return []
    return [(NUMBER_WORDS[meaning.count], UNKNOWN if None in regions else _number(len(regions)))]


def _number(count: int) -> str:
    return {0: NO_OBJECT, 1: "one"}.get(count) or NUMBER_WORDS.get(count) or "more"


def _shapes(meaning: Meaning, regions: Regions) -> list[tuple[str, str]]:
    if meaning.category not in ("single_object", "colors"):
        return []
    return [(meaning.objects[0].shape, _one([each.shape if each else UNKNOWN for each in regions]))]


def _colors(meaning: Meaning, regions: Regions) -> list[tuple[str, str]]:
    return [
        (wanted.color, _one([each.color for each in regions if each and each.shape == wanted.shape]))
        for wanted in meaning.objects
        if wanted.color is not None
    ]


def _one(words: list[str]) -> str:
    return SEVERAL if len(words) > 1 else words[0] if words else NO_OBJECT


def _relations(meaning: Meaning, regions: Regions) -> list[tuple[str, str]]:
    if meaning.relation is None:
        return []
    found = [[each for each in regions if each and each.shape == wanted.shape] for wanted in meaning.objects]
    if len(regions) != 2 or any(len(each) != 1 for each in found):
        return [(meaning.relation, NEITHER)]
    seen = relations(found[0][0], found[1][0])
    likely = (meaning.relation, RELATIONS[meaning.relation], *RELATIONS)
    return [(meaning.relation, next((each for each in likely if each in seen), UNKNOWN))]


_QUESTIONS: dict[str, tuple[str, Sequence[str], Callable[[Meaning, Regions], list[tuple[str, str]]]]] = {
    "count": (
        f"Objects asked for and objects found, in captions that count; {UNKNOWN}: something is no object.",
        ("one", *NUMBER_WORDS.values(), "more", NO_OBJECT, UNKNOWN),
        _counts,
    ),
    "shape": (
        f"The shape asked for and the one found, in captions of one object; {SEVERAL}: more than one was drawn.",
        (*SHAPES, SEVERAL, NO_OBJECT, UNKNOWN),
        _shapes,
    ),
    "colour": (
        f"The colour asked for and the one of the object of that shape; {NO_OBJECT}: none has the shape.",
        (*COLORS, SEVERAL, NO_OBJECT),
        _colors,
    ),
    "relation": (
        f"Where the first object was asked for and where it is; {NEITHER}: not just these two; {UNKNOWN}: too slanting "
        "or too near. Right of and below are asked for too, as left of and above with the objects exchanged.",
        (*RELATIONS, NEITHER, UNKNOWN),
        _relations,
    ),
}
"""Title -> meaning, words in the order to show, and the answers that an image gives to a meaning."""
