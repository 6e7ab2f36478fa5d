"""The detector that scores pictures of the scene world: what is there, where, and whether it is what a caption says.

It sees the picture and the vocabulary only: not the caption, nor the recipe's choice of words, sizes and layout.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.things import Thing, things

POSITION_MARGIN, POSITION_COSINE = 0.1, 0.5
"""GenEval: share of the two widths that an offset must exceed, and least share of the offset along the axis."""


@dataclass(frozen=True)
class Detection:
    """One object found; x, y (of its centre of mass) and radius are shares of the picture's longer side.

    `radius` is that of the disc of the same area; `score` is the overlap with the template, 0 to 1.
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    score: float


def detect(image: NDArray[np.uint8]) -> list[Detection]:
    """The objects in `image` (height, width, 3), from the top downwards."""
    side = max(image.shape[:2])
    return [_shares(thing, side) for thing in things(image) if thing is not None]


def satisfies(image: NDArray[np.uint8], meaning: Meaning) -> bool:
    """Whether `image` (height, width, 3) shows exactly what `meaning` says, by GenEval's rules made strict.

    GenEval lets a picture show more than its caption names. Here it must show the named objects and nothing else:
    one more object, or something as large that is no object at all, is wrong in every category. Colours must be
    those that the caption names; a relation must hold with GenEval's margin.
    """
    seen = things(image)
    found = [thing for thing in seen if thing is not None]
    wanted = Counter({thing.shape: meaning.count for thing in meaning.objects})
    if len(found) < len(seen) or Counter(thing.shape for thing in found) != wanted:
        return False
    named = {thing.shape: thing.color for thing in meaning.objects}
    if any(named[thing.shape] not in (None, thing.color) for thing in found):
        return False
    if meaning.relation is None:
        return True
    place = {thing.shape: _shares(thing, max(image.shape[:2])) for thing in found}
    return meaning.relation in relations(*(place[thing.shape] for thing in meaning.objects))


def relations(first: Detection, second: Detection) -> set[str]:
    """Where `first` is, seen from `second`: up to two of left of, right of, above, below (GenEval's rule)."""
    offset = np.array([first.x - second.x, first.y - second.y])
    margin = POSITION_MARGIN * 2 * (first.radius + second.radius)
    clear = np.sign(offset) * np.maximum(np.abs(offset) - margin, 0)
    across, down = clear / max(float(np.linalg.norm(offset)), 1e-9)
    named = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, share in named.items() if share > POSITION_COSINE}


def _shares(thing: Thing, side: int) -> Detection:
    x, y, radius = thing.x / side, thing.y / side, thing.radius / side
    return Detection(thing.shape, thing.color, x, y, radius, thing.score)
