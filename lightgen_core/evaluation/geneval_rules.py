"""GenEval's rules: from the objects found in a picture to a verdict (Ghosh et al. 2023, Sec. 3). Free of torch."""

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
"""Share of the two widths that an offset must exceed, and least share of the whole offset along the axis."""

_GREY = 0x99
_NOTHING = 1e-3  # px


@dataclass(frozen=True)
class Detected:
    """An object found in a picture.

    Attributes:
        name: its class, as prompts name it.
        score: the detector's confidence, 0 to 1.
        box: left, top, right, bottom, px; right and bottom are the first pixel beyond it.
        mask: its pixels, of the picture's size.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: Bool[np.ndarray, "height width"]


NameColors = Callable[[UInt8[np.ndarray, "height width 3"], Sequence[Detected]], Sequence[Color]]
"""Names the colour of each of some objects of one class."""


def counted(detected: Iterable[Detected], category: str) -> dict[str, list[Detected]]:
    """Return the objects that count in a prompt of a category, by class, the surest first."""
    least = COUNTING_CONFIDENCE if category == "counting" else CONFIDENCE
    found: dict[str, list[Detected]] = {}
    for thing in sorted(detected, key=lambda thing: -thing.score):
        if thing.score > least and len(found.setdefault(thing.name, [])) < MOST_OBJECTS:
            found[thing.name].append(thing)
    return found


def meets(
    picture: UInt8[np.ndarray, "height width 3"],
    found: dict[str, list[Detected]],
    required: Requirement,
    name_colors: NameColors,
) -> bool:
    """Return whether a picture is right: every clause of `include` holds, and none of `exclude`.

    Colour and position are those of the surest objects, as many as the clause asks for. What a picture shows beyond
    the prompt does not count against it, except more objects than a counting prompt names.

    Args:
        picture: sRGB.
        found: as `counted` returns them.
        required: what the prompt demands.
        name_colors: asked only where the clause names a colour and enough objects were found.
    """
    placed: list[list[Detected]] = []
    for wanted in required.include:
        things = found.get(wanted.name, [])[: wanted.count]
        if len(things) < wanted.count:
            return False
        if wanted.color and any(color != wanted.color for color in name_colors(picture, things)):
            return False
        if wanted.position:
            relation, other = wanted.position
            if any(relation not in relations(a.box, b.box) for a in things for b in placed[other]):
                return False
        placed.append(things)
    return not any(len(found.get(wanted.name, [])) >= wanted.count for wanted in required.exclude)


def relations(first: Sequence[float], second: Sequence[float]) -> set[str]:
    """Return where the first box is, seen from the second: up to two of left of, right of, above, below."""
    corners = np.array([first, second], dtype=np.float64).reshape(2, 2, 2)
    offset = np.subtract(*corners.mean(axis=1))
    sides = corners[:, 1] - corners[:, 0]
    clear = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_MARGIN * sides.sum(axis=0), 0)
    if np.abs(clear).max() < _NOTHING:
        return set()
    across, down = clear / np.linalg.norm(offset)
    named = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, share in named.items() if share > POSITION_COSINE}


def alone(picture: UInt8[np.ndarray, "height width 3"], thing: Detected) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the object's box cut out of the picture, with all that is not the object grey."""
    left, top, right, bottom = (round(edge) for edge in thing.box)
    greyed = np.where(thing.mask[..., None], picture, np.uint8(_GREY))
    return np.ascontiguousarray(greyed[top:bottom, left:right])
