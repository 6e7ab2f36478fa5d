"""The detector's templates: every shape drawn on the pixels of a thing, with its area and centre of mass."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lightgen_core.scene.shapes import mask
from lightgen_core.scene.vocabulary import SHAPES

Floats = NDArray[np.float64]

BLURS = (0.0, 1.2)
"""Widths (sigma, px) of the blur that templates are drawn with: a teacher's picture, an autoencoder's copy of it."""

RESOLUTION = 64
"""Samples along the side of a shape's mask."""


def templates(area: float, x: float, y: float, size: tuple[int, int]) -> Floats:
    """Each shape's coverage of the pixels of a (height, width) box: (len(BLURS), len(SHAPES), height, width), 0 to 1.

    `area` (px) is the sum of the coverage, (`x`, `y`) its centre of mass in the box (px; pixel centres at halves).
    """
    height, width = size
    blur_rows, blur_columns = _blurs(height), _blurs(width)
    drawn = np.empty((len(BLURS), len(SHAPES), height, width))
    for index, (points, share, center_x, center_y) in enumerate(_masks()):
        side = np.sqrt(area / share)  # of the shape's square, px
        rows = _overlaps(height, y - center_y * side, side)
        columns = _overlaps(width, x - center_x * side, side)
        sharp = rows @ points @ columns.T
        for level in range(len(BLURS)):
            drawn[level, index] = blur_rows[level] @ sharp @ blur_columns[level]
    return drawn


@lru_cache(maxsize=256)
def _blurs(pixels: int) -> Floats:
    """(len(BLURS), pixels, pixels): each blur along one axis, as a matrix; nothing lies beyond the box."""
    reach = np.arange(-pixels, pixels + 1)
    apart = np.subtract.outer(np.arange(pixels), np.arange(pixels))
    return np.array([_gaussian(apart, sigma) / _gaussian(reach, sigma).sum() for sigma in BLURS])


def _gaussian(distance: NDArray[np.int64], sigma: float) -> Floats:
    return np.exp(-0.5 * (distance / max(sigma, 1e-3)) ** 2)  # sigma 0: this pixel alone


@lru_cache(maxsize=1)
def _masks() -> tuple[tuple[Floats, float, float, float], ...]:
    """For each shape its mask, the share of its square that it fills, and its centre of mass there (0 to 1)."""
    axis = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    found = []
    for shape in SHAPES:
        points = mask(shape, RESOLUTION)
        total = points.sum()
        center_x, center_y = float(points.sum(0) @ axis / total), float(points.sum(1) @ axis / total)
        found.append((points, float(points.mean()), center_x, center_y))
    return tuple(found)


def _overlaps(pixels: int, start: float, side: float) -> Floats:
    """(pixels, RESOLUTION): the length that each pixel shares with each sample of a mask from `start`, `side` long."""
    step = side / RESOLUTION
    samples = start + step * np.arange(RESOLUTION)
    covered = np.clip(np.arange(pixels + 1)[:, None] - samples, 0, step)  # up to each pixel's edge
    return np.diff(covered, axis=0)
