"""The detector that scores pictures of the scene world: what is there, where, and whether it is what a caption says.

It sees the picture and the vocabulary only. A pixel that an object covers by the share alpha is
`background + alpha * (color - background)`, so each palette colour is a direction from the background, and edges,
noise and a little blur move a pixel along or around that direction without turning it into another colour. Connected
pixels of high alpha are one thing; its shape is the template with the largest overlap when drawn with the same area
and the same centre of mass, which blur and noise leave in place.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.templates import templates
from lightgen_core.scene.vocabulary import COLORS, SHAPES

Floats = NDArray[np.float64]

MIN_OVERLAP = 0.65
"""Least overlap (sum of minima over sum of maxima) with its template for a thing to count as an object."""

MAX_COLOR_ERROR = 0.2
"""Largest mean distance (RGB, 0 to 1) of a thing's solid pixels from their palette colour."""

MIN_CONTRAST = 0.2
"""Distance from the background (RGB, 0 to 1) below which a pixel is background whatever its direction."""

MIN_PIXELS, MIN_SHARE = 6, 0.002
"""Things smaller than this many pixels or this share of the picture are specks, neither objects nor clutter."""

POSITION_MARGIN, POSITION_COSINE = 0.1, 0.5
"""GenEval: share of the two widths that an offset must exceed, and least share of the offset along the axis."""

EDGE = 2
"""How far a thing's soft edge reaches beyond its core, px."""

LEVELS = (0.5, 0.7, 0.85)
"""Coverage that makes a core. What is no object at one level may be two that touch, and come apart at the next."""

SOLID = 0.7
"""Least coverage of a pixel inside a thing; less is another colour."""

_NAMES = tuple(COLORS)
_PALETTE = np.array([COLORS[name] for name in _NAMES]) / 255


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


@dataclass(frozen=True)
class _Thing:
    """A detection in pixels of its own box."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    score: float

    def seen_in(self, left: int, top: int, side: int) -> Detection:
        """As shares of the whole picture, whose longer side is `side` px."""
        x, y, radius = (self.x + left) / side, (self.y + top) / side, self.radius / side
        return Detection(self.shape, self.color, x, y, radius, self.score)


def detect(image: NDArray[np.uint8]) -> list[Detection]:
    """The objects in `image` (height, width, 3), from the top left downwards."""
    return [thing for thing in _things(image) if thing is not None]


def satisfies(image: NDArray[np.uint8], meaning: Meaning) -> bool:
    """Whether `image` shows exactly what `meaning` says, by GenEval's rules made strict.

    GenEval lets a picture show more than its caption names. Here it must show the named objects and nothing else:
    one more object, or something as large that is no object at all, is wrong in every category. Colours must be
    those that the caption names; a relation must hold with GenEval's margin.
    """
    things = _things(image)
    found = [thing for thing in things if thing is not None]
    if len(found) < len(things) or Counter(t.shape for t in found) != Counter(
        {o.shape: meaning.count for o in meaning.objects}
    ):
        return False
    color_of = {o.shape: o.color for o in meaning.objects}
    if any(color_of[t.shape] not in (None, t.color) for t in found):
        return False
    if meaning.relation is None:
        return True
    first, second = sorted(found, key=lambda t: t.shape != meaning.objects[0].shape)
    return meaning.relation in relations(first, second)


def relations(first: Detection, second: Detection) -> set[str]:
    """Where `first` is, seen from `second`: up to two of left of, right of, above, below (GenEval's rule)."""
    offset = np.array([first.x - second.x, first.y - second.y])
    margin = POSITION_MARGIN * 2 * (first.radius + second.radius)
    clear = np.sign(offset) * np.maximum(np.abs(offset) - margin, 0)
    across, down = clear / max(float(np.linalg.norm(offset)), 1e-9)
    named = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, share in named.items() if share > POSITION_COSINE}


def _things(image: NDArray[np.uint8]) -> list[Detection | None]:
    """Every thing larger than a speck; None where it is no object of the vocabulary."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"found an image of {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    difference, background = _from_background(image)
    return _split(difference, background, _alpha(difference, background), max(image.shape[:2]))


def _split(difference: Floats, background: Floats, alpha: Floats, side: int, level: int = 0) -> list[Detection | None]:
    """The things whose cores are connected at this level; one that is no object is looked at again at the next."""
    labels, _ = ndimage.label(alpha > LEVELS[level])
    least = max(MIN_PIXELS, MIN_SHARE * side * side)
    things: list[Detection | None] = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        core = labels[rows, columns] == index
        if np.count_nonzero(core) < least:
            continue
        top, left = max(0, rows.start - EDGE), max(0, columns.start - EDGE)
        box = (slice(top, rows.stop + EDGE), slice(left, columns.stop + EDGE))
        thing = _recognise(difference[box], labels[box], index, background)
        if thing is None and level + 1 < len(LEVELS):
            alone = np.zeros_like(alpha)
            alone[rows, columns] = alpha[rows, columns] * core
            pieces = _split(difference, background, alone, side, level + 1)
            things += pieces if pieces and None not in pieces else [None]
        else:
            things.append(thing and thing.seen_in(left, top, side))
    return things


def _from_background(image: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """The picture less its background (the median of its rim), and the background; RGB, 0 to 1."""
    pixels = image / 255
    rim = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    background = np.median(rim, axis=0)
    return pixels - background, background


def _alpha(difference: Floats, background: Floats) -> Floats:
    """How much of each pixel is covered by an object of the palette colour nearest in direction."""
    directions = _PALETTE - background  # (colors, 3)
    squared = (directions**2).sum(1)
    alpha = np.zeros(difference.shape[:2])
    visible = (difference**2).sum(-1) > MIN_CONTRAST**2
    along = difference[visible] @ directions.T  # (visible pixels, colors)
    best = np.argmax(along / np.sqrt(squared), axis=1)
    alpha[visible] = along[np.arange(len(best)), best] / squared[best]
    return alpha


def _recognise(difference: Floats, labels: NDArray[np.int32], index: int, background: Floats) -> _Thing | None:
    """Colour, shape and place (pixels of its box) of one labelled thing, or None if the vocabulary has no such object."""
    core = labels == index
    color = _nearest_color(difference, core, background)
    if color is None:
        return None
    direction = _PALETTE[color] - background
    near = ndimage.binary_dilation(core, iterations=EDGE) & ((labels == 0) | core)  # its soft edge, but not another thing's
    alpha = np.clip(difference @ direction / (direction @ direction), 0, 1) * near
    mass = float(alpha.sum())
    y = float(alpha.sum(1) @ (np.arange(alpha.shape[0]) + 0.5)) / mass
    x = float(alpha.sum(0) @ (np.arange(alpha.shape[1]) + 0.5)) / mass
    drawn = templates(mass, x, y, alpha.shape)
    overlaps = (np.minimum(alpha, drawn).sum((2, 3)) / np.maximum(alpha, drawn).sum((2, 3))).max(0)  # best blur
    shape = int(np.argmax(overlaps))
    if overlaps[shape] < MIN_OVERLAP:
        return None
    return _Thing(SHAPES[shape], _NAMES[color], x, y, float(np.sqrt(mass / np.pi)), float(overlaps[shape]))


def _nearest_color(difference: Floats, core: NDArray[np.bool_], background: Floats) -> int | None:
    """The palette colour closest to a thing's solid pixels on average, or None if none is close.

    The mean of distances, not the distance of the mean: half red and half blue is not purple.
    """
    solid = difference[ndimage.binary_erosion(core)]
    if len(solid) < MIN_PIXELS:  # a small thing is all edge: take its strongest quarter
        pixels = difference[core]
        order = np.argsort((pixels**2).sum(1))
        solid = pixels[order[-max(2, len(order) // 4) :]]
    directions = _PALETTE - background
    cover = np.clip(solid @ directions.T / (directions**2).sum(1), SOLID, 1)  # (pixels, colors)
    errors = np.linalg.norm(solid[:, None] - cover[..., None] * directions, axis=-1).mean(0)
    return int(np.argmin(errors)) if errors.min() <= MAX_COLOR_ERROR else None
