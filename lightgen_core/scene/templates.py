"""The detector's templates: every shape drawn on the pixels of an object, with its area and centre of mass."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.shapes import mask
from lightgen_core.scene.vocabulary import SHAPES

Floats = NDArray[np.float64]

BLURS = (0.0, 1.2)
"""Widths (sigma, px) of the blur that templates are drawn with: a teacher's image, an autoencoder's copy of it."""

RESOLUTION = 64
"""Samples along the side of a shape's mask."""


def templates(area: float, x: float, y: float, size: tuple[int, int]) -> Floats:
    """Return each shape's pixel coverage: (len(BLURS), len(SHAPES), height, width).

    `area` (px) is the sum of the coverage, (`x`, `y`) its centre of mass in the box (px; pixel centres at halves).
    """
    height, width = size
    blur_rows, blur_columns = _blurs(height), _blurs(width)
    drawn = np.empty((len(BLURS), len(SHAPES), height, width))
    for index, (points, fraction, center_x, center_y) in enumerate(_masks()):
        side = np.sqrt(area / fraction)  # of the shape's square, px
        rows = _overlaps(height, y - center_y * side, side)
        columns = _overlaps(width, x - center_x * side, side)
        sharp = rows @ points @ columns.T
        for level in range(len(BLURS)):
            drawn[level, index] = blur_rows[level] @ sharp @ blur_columns[level]
    return drawn


@lru_cache(maxsize=256)
def _blurs(pixels: int) -> Floats:
    """Return each blur as a matrix along one axis, (len(BLURS), pixels, pixels)."""
    reach = np.arange(-pixels, pixels + 1)
    apart = np.subtract.outer(np.arange(pixels), np.arange(pixels))
    return np.array([_gaussian(apart, sigma) / _gaussian(reach, sigma).sum() for sigma in BLURS])


def _gaussian(distance: NDArray[np.int64], sigma: float) -> Floats:
    return np.exp(-0.5 * (distance / max(sigma, 1e-3)) ** 2)  # sigma 0: this pixel alone


@lru_cache(maxsize=1)
def _masks() -> tuple[tuple[Floats, float, float, float], ...]:
    """Return each shape's mask, filled fraction and centre of mass (0 to 1)."""
    axis = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    masks = []
    for shape in SHAPES:
        points = mask(shape, RESOLUTION)
        total = points.sum()
        center_x, center_y = float(points.sum(0) @ axis / total), float(points.sum(1) @ axis / total)
        masks.append((points, float(points.mean()), center_x, center_y))
    return tuple(masks)


def _overlaps(pixels: int, start: float, side: float) -> Floats:
    """Return the overlap of pixels and mask samples, (pixels, RESOLUTION)."""
    step = side / RESOLUTION
    samples = start + step * np.arange(RESOLUTION)
    covered = np.clip(np.arange(pixels + 1)[:, None] - samples, 0, step)  # up to each pixel's edge
    return np.diff(covered, axis=0)
