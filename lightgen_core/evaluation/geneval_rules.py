"""GenEval's rules: from the objects found in an image to a verdict (Ghosh et al. 2023, Sec. 3). Free of torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from lightgen_core.evaluation.geneval_prompts import Color, Requirement

CONFIDENCE, COUNTING_CONFIDENCE = 0.3, 0.9
"""An object counts from above this score; where objects are to be counted, from above the second."""

MOST_OBJECTS = 16
"""Objects of one class that are looked at, the surest first."""

POSITION_MARGIN, POSITION_COSINE = 0.1, 0.5
"""Fraction of the two widths that an offset must exceed, and least fraction of the whole offset along the axis."""

_GREY = 0x99
_NOTHING = 1e-3  # px


@dataclass(frozen=True)
class DetectedObject:
    """A detected object; `score` from 0 to 1; `box` is left, top, right, bottom, px, the last two beyond it."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Bool[np.ndarray, "height width"]


NameColors = Callable[[UInt8[np.ndarray, "height width 3"], Sequence[DetectedObject]], Sequence[Color]]
"""Names the colour of each of some objects of one class."""


def group_by_class(detected: Iterable[DetectedObject], category: str) -> dict[str, list[DetectedObject]]:
    """Return the objects that count in a prompt of a category, by class, the surest first."""
    least = COUNTING_CONFIDENCE if category == "counting" else CONFIDENCE
    by_class: dict[str, list[DetectedObject]] = {}
    for obj in sorted(detected, key=lambda obj: -obj.score):
        if obj.score > least and len(by_class.setdefault(obj.name, [])) < MOST_OBJECTS:
            by_class[obj.name].append(obj)
    return by_class


def satisfies(
    image: UInt8[np.ndarray, "height width 3"],
    by_class: dict[str, list[DetectedObject]],
    required: Requirement,
    name_colors: NameColors,
) -> bool:
    """Return whether an image is right: every clause of `include` holds, and none of `exclude`.

    Colour and position are those of the surest objects, as many as the clause asks for. What an image shows beyond
    the prompt does not count against it, except more objects than a counting prompt names.
    """
    placed: list[list[DetectedObject]] = []
    for clause in required.include:
        objects = by_class.get(clause.name, [])[: clause.count]
        if len(objects) < clause.count:
            return False
        if clause.color and any(color != clause.color for color in name_colors(image, objects)):
            return False
        if clause.position:
            relation, other = clause.position
            if any(relation not in relations(a.box, b.box) for a in objects for b in placed[other]):
                return False
        placed.append(objects)
    return not any(len(by_class.get(clause.name, [])) >= clause.count for clause in required.exclude)


def relations(first: Sequence[float], second: Sequence[float]) -> set[str]:
    """Return where the first box is, seen from the second: up to two of left of, right of, above, below."""
    corners = np.array([first, second], dtype=np.float64).reshape(2, 2, 2)
    offset = np.subtract(*corners.mean(axis=1))
    sides = corners[:, 1] - corners[:, 0]
    clear = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_MARGIN * sides.sum(axis=0), 0)
    if np.abs(clear).max() < _NOTHING:
        return set()
    across, down = clear / np.linalg.norm(offset)
    along = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, cosine in along.items() if cosine > POSITION_COSINE}


def crop_on_grey(
    image: UInt8[np.ndarray, "height width 3"], obj: DetectedObject
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the object's box cut out of the image, with all that is not the object grey."""
    left, top, right, bottom = (round(edge) for edge in obj.box)
    greyed = np.where(obj.mask[..., None], image, np.uint8(_GREY))
    return np.ascontiguousarray(greyed[top:bottom, left:right])
