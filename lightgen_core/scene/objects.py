"""Object detection: regions against the background, their colour and shape.

A pixel that an object covers by the share alpha is `background + alpha * (color - background)`, so each palette
colour is a direction from the background, and edges, noise and a little blur move a pixel along or around that
direction without turning it into another colour. Connected pixels of high alpha are one object; its shape is the
template with the largest overlap when drawn with the same area and the same centre of mass, which blur and noise
leave in place.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lightgen_core.scene.templates import templates
from lightgen_core.scene.vocabulary import COLORS, SHAPES

Floats = NDArray[np.float64]

MIN_OVERLAP = 0.7
"""Least overlap (sum of minima over sum of maxima) of an object with its template."""

MAX_COLOR_ERROR = 0.2
"""Largest mean distance (RGB, 0 to 1) of an object's solid pixels from their palette colour."""

MIN_CONTRAST = 0.2
"""Distance from the background (RGB, 0 to 1) below which nothing can be seen."""

MIN_PIXELS, MIN_SHARE = 6, 0.002
"""Smallest region, in pixels and as a fraction of the image; less is a speck."""

LEVELS = (0.5, 0.7, 0.85)
"""Coverage that makes a core. What is no object at one level may be two that touch, and come apart at the next."""

SOLID = 0.7
"""Least coverage of a pixel inside an object; less is another colour."""

EDGE = 2
"""Reach of an object's soft edge beyond its core, px."""


@dataclass(frozen=True)
class Detection:
    """One detected object, in fractions of the image's longer side.

    `x`, `y` are its centre of mass; `radius` is that of the disc of the same area; `score` is the overlap with the
    template, 0 to 1.
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    score: float


@dataclass(frozen=True)
class _Scene:
    """An image seen against its background."""

    difference: Floats  # (height, width, 3) from the background, RGB, 0 to 1
    colors: list[str]  # those that can be seen against it
    directions: Floats  # (colors, 3) from the background to each


def find_objects(image: NDArray[np.uint8]) -> list[Detection | None]:
    """Return every region of `image` uint8 (height, width, 3), None if no known object; ValueError for other images."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"found an image of {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    pixels = image / 255
    rim = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    background = np.median(rim, axis=0)  # the rim is mostly free of objects
    directions = {name: np.array(color) / 255 - background for name, color in COLORS.items()}
    visible = {name: d for name, d in directions.items() if d @ d > MIN_CONTRAST**2}
    scene = _Scene(pixels - background, list(visible), np.array(list(visible.values())))
    return _split(scene, _coverage(scene))


def _coverage(scene: _Scene) -> Floats:
    """Return each pixel's coverage by its nearest colour, (height, width)."""
    squared = (scene.directions**2).sum(1)
    alpha = np.zeros(scene.difference.shape[:2])
    visible = (scene.difference**2).sum(-1) > MIN_CONTRAST**2
    along = scene.difference[visible] @ scene.directions.T  # (visible pixels, colors)
    best = np.argmax(along / np.sqrt(squared), axis=1)
    alpha[visible] = along[np.arange(len(best)), best] / squared[best]
    return alpha


def _split(scene: _Scene, alpha: Floats, level: int = 0) -> list[Detection | None]:
    """Return the objects of connected cores; retry unknown ones at the next level."""
    labels, _ = ndimage.label(alpha > LEVELS[level])
    least = max(MIN_PIXELS, MIN_SHARE * alpha.size)
    objects: list[Detection | None] = []
    boxes, sizes = ndimage.find_objects(labels), np.bincount(labels.ravel())
    for index in (index for index in range(1, len(sizes)) if sizes[index] >= least):
        obj = _recognise(scene, labels, index, boxes[index - 1])
        if obj is None and level + 1 < len(LEVELS):
            pieces = _split(scene, np.where(labels == index, alpha, 0), level + 1)
            objects += pieces if len(pieces) > 1 and None not in pieces else [None]
        else:
            objects.append(obj)
    return objects


def _recognise(scene: _Scene, labels: NDArray[np.int32], index: int, box: tuple[slice, ...]) -> Detection | None:
    """Classify colour and shape of one region, None if unknown."""
    top, left = (max(0, side.start - EDGE) for side in box)
    box = (slice(top, box[0].stop + EDGE), slice(left, box[1].stop + EDGE))
    difference, core = scene.difference[box], labels[box] == index
    color = _nearest_color(difference[_solid(difference, core)], scene.directions)
    if color is None:
        return None
    direction = scene.directions[color]
    near = ndimage.binary_dilation(core, iterations=EDGE)
    alpha = np.clip(difference @ direction / (direction @ direction), 0, 1) * near
    area = float(alpha.sum())
    y = float(alpha.sum(1) @ (np.arange(alpha.shape[0]) + 0.5)) / area
    x = float(alpha.sum(0) @ (np.arange(alpha.shape[1]) + 0.5)) / area
    drawn = templates(area, x, y, (alpha.shape[0], alpha.shape[1]))
    overlaps = (np.minimum(alpha, drawn).sum((2, 3)) / np.maximum(alpha, drawn).sum((2, 3))).max(0)  # over blurs
    shape = int(np.argmax(overlaps))
    if overlaps[shape] < MIN_OVERLAP:
        return None
    side = max(scene.difference.shape[:2])
    position = ((left + x) / side, (top + y) / side, float(np.sqrt(area / np.pi)) / side)
    return Detection(SHAPES[shape], scene.colors[color], *position, float(overlaps[shape]))


def _solid(difference: Floats, core: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return fully covered pixels: the eroded core, or its strongest quarter."""
    inner = ndimage.binary_erosion(core)
    if np.count_nonzero(inner) >= MIN_PIXELS:
        return inner
    contrast = (difference**2).sum(-1)
    return core & (contrast >= np.quantile(contrast[core], 0.75))


def _nearest_color(solid: Floats, directions: Floats) -> int | None:
    """Return the index of the colour closest to `solid` (pixels, 3), None if none is close.

    The mean of distances, not the distance of the mean: half red and half blue is not purple. Blurred pixels may have
    any coverage from `SOLID` on.
    """
    cover = np.clip(solid @ directions.T / (directions**2).sum(1), SOLID, 1)  # (pixels, colors)
    errors = np.linalg.norm(solid[:, None] - cover[..., None] * directions, axis=-1).mean(0)
    return int(np.argmin(errors)) if errors.min() <= MAX_COLOR_ERROR else None
