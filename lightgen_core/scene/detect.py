"""The detector that scores pictures of the scene world: what is there, where, and whether it is what a caption says.

It sees the picture and the vocabulary only. A pixel that an object covers by the share alpha is
`background + alpha * (color - background)`, so each palette colour is a direction from the background, and edges,
noise and a little blur move a pixel along or around that direction without turning it into another colour. Connected
pixels of high alpha are one thing; its shape is the template with the largest overlap after both are brought to
the same area and centre, which blur leaves in place.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.shapes import coverage
from lightgen_core.scene.vocabulary import COLORS, SHAPES

Floats = NDArray[np.float64]

MIN_OVERLAP = 0.65
"""Least overlap (sum of minima over sum of maxima) with its template for a thing to count as an object."""

MAX_COLOR_ERROR = 0.2
"""Largest distance (RGB, 0 to 1) of a thing's mean colour from its palette colour."""

MIN_CONTRAST = 0.2
"""Distance from the background (RGB, 0 to 1) below which a pixel is background whatever its direction."""

MIN_PIXELS, MIN_SHARE = 6, 0.002
"""Things smaller than this many pixels or this share of the picture are specks, neither objects nor clutter."""

POSITION_MARGIN, POSITION_COSINE = 0.1, 0.5
"""GenEval: share of the two widths that an offset must exceed, and least share of the offset along the axis."""

PATCH, SPAN = 32, 1.9
"""Samples along a normalised patch, and its half side in units of sqrt(area / pi)."""

TEMPLATE_RADII = (2.5, 3, 3.5, 4, 5, 6, 8, 11, 16, 24, 40)
"""Object radii (px) at which templates are drawn: small objects have relatively softer edges."""

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
    alpha = _alpha(difference, background)
    labels, _ = ndimage.label(alpha > 0.5)
    least = max(MIN_PIXELS, MIN_SHARE * labels.size)
    things = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if (labels[box] == index).sum() >= least:
            box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in box)
            things.append(_recognise(difference[box], labels[box], index, background, box, max(image.shape)))
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
    along = difference @ directions.T  # (height, width, colors)
    best = np.argmax(along / np.sqrt(squared), axis=-1)
    alpha = np.take_along_axis(along, best[..., None], -1)[..., 0] / squared[best]
    alpha[(difference**2).sum(-1) < MIN_CONTRAST**2] = 0
    return alpha


def _recognise(
    difference: Floats, labels: NDArray[np.int32], index: int, background: Floats, box: tuple[slice, ...], side: int
) -> Detection | None:
    """Colour and shape of one labelled thing within its box, or None if it has none of the vocabulary."""
    core = labels == index
    color, alpha = _color(difference, core, background)
    if color is None:
        return None
    near = ndimage.binary_dilation(core, iterations=1) & ((labels == 0) | core)
    alpha = np.where(near, np.clip(alpha, 0, 1), 0)
    mass = float(alpha.sum())
    y, x = ((alpha * axis).sum() / mass for axis in np.ogrid[: alpha.shape[0], : alpha.shape[1]])
    scale = np.sqrt(mass / np.pi)
    patch = _normalised(alpha, x, y, scale)
    templates = _templates(int(np.argmin(np.abs(np.array(TEMPLATE_RADII) - 1.2*scale))))
    overlaps = np.minimum(patch, templates).sum((1, 2)) / np.maximum(patch, templates).sum((1, 2))
    shape = int(np.argmax(overlaps))
    if overlaps[shape] < MIN_OVERLAP:
        return None
    x, y = x + box[1].start + 0.5, y + box[0].start + 0.5
    return Detection(SHAPES[shape], color, x / side, y / side, scale / side, float(overlaps[shape]))


def _color(difference: Floats, core: NDArray[np.bool_], background: Floats) -> tuple[str | None, Floats]:
    directions = _PALETTE - background
    inner = ndimage.binary_erosion(core)
    mean = difference[inner if inner.sum() >= 4 else core].mean(0)
    errors = np.linalg.norm(mean - directions, axis=1)
    best = int(np.argmin(errors))
    if errors[best] > MAX_COLOR_ERROR:
        return None, difference[..., 0]
    return _NAMES[best], difference @ directions[best] / (directions[best] ** 2).sum()


def _normalised(alpha: Floats, x: float, y: float, scale: float) -> Floats:
    """`alpha` resampled to (PATCH, PATCH) around its centre, in units of its scale."""
    steps = np.linspace(-SPAN, SPAN, PATCH) * scale
    rows, columns = np.meshgrid(y + steps, x + steps, indexing="ij")
    return ndimage.map_coordinates(alpha, [rows, columns], order=1, mode="constant")


@lru_cache(maxsize=None)
def _templates(level: int) -> Floats:
    """Every shape's normalised patch (shapes, PATCH, PATCH), averaged over places between the pixels."""
    radius = TEMPLATE_RADII[level]
    side = int(2 * radius) + 6
    found = []
    for shape in SHAPES:
        patches = []
        for dx in np.arange(4) / 4:
            for dy in np.arange(4) / 4:
                alpha = coverage(shape, side / 2 + dx, side / 2 + dy, radius, side, side)
                y, x = ndimage.center_of_mass(alpha)
                patches.append(_normalised(alpha, x, y, np.sqrt(alpha.sum() / np.pi)))
        found.append(np.mean(patches, axis=0))
    return np.array(found)
