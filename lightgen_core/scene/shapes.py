"""The shapes as point sets, from which every pixel's coverage follows on any machine."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SUPERSAMPLE = 4
"""Samples along each side of a pixel; coverage has SUPERSAMPLE² + 1 levels."""

NOTCH = 0.5
"""Distance of a star's notches from its centre, its tips at 1. A true pentagram's (0.38) leaves little at 4 px."""


def _polygon(corners: list[tuple[float, float]]) -> Callable[[Floats, Floats], Bools]:
    """Return a convex polygon of clockwise corners (y points down)."""
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))

    def inside(x: Floats, y: Floats) -> Bools:
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0 for (ax, ay), (bx, by) in edges]
        return np.logical_and.reduce(np.broadcast_arrays(*sides))

    return inside


def _star(x: Floats, y: Floats) -> Bools:
    """Test for a five-pointed star: its tip-to-notch edge, folded tenfold."""
    y = y - 0.05  # a star reaches higher than it stands low
    turn = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + turn / 2) % turn - turn / 2)  # from the nearest tip, 0 to turn / 2
    radius = np.hypot(x, y)
    notch_x, notch_y = NOTCH * np.cos(turn / 2), NOTCH * np.sin(turn / 2)
    return (radius * np.cos(angle) - 1) * notch_y <= radius * np.sin(angle) * (notch_x - 1)


_INSIDE: dict[str, Callable[[Floats, Floats], Bools]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.86,
    "triangle": _polygon([(0, -0.92), (1, 0.88), (-1, 0.88)]),
    "star": _star,
    "cross": lambda x, y: (np.maximum(np.abs(x), np.abs(y)) <= 1) & (np.minimum(np.abs(x), np.abs(y)) <= 0.33),
    "diamond": lambda x, y: np.abs(x) / 0.8 + np.abs(y) <= 1,
    "ring": lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.5**2),
}


def coverage(shape: str, x: float, y: float, radius: float, height: int, width: int) -> Floats:
    """Return a shape's coverage of each canvas pixel, (height, width), 0 to 1; `x`, `y` and `radius` in px."""
    canvas = np.zeros((height, width))
    left, right = max(0, int(x - radius) - 1), min(width, int(x + radius) + 2)
    top, bottom = max(0, int(y - radius) - 1), min(height, int(y + radius) + 2)
    xs = (np.arange(left * SUPERSAMPLE, right * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    ys = (np.arange(top * SUPERSAMPLE, bottom * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    inside = _INSIDE[shape]((xs[None, :] - x) / radius, (ys[:, None] - y) / radius)
    blocks = inside.reshape(bottom - top, SUPERSAMPLE, right - left, SUPERSAMPLE)
    canvas[top:bottom, left:right] = blocks.mean((1, 3))
    return canvas


def mask(shape: str, side: int) -> Floats:
    """Return the shape's binary mask on a (side, side) grid."""
    samples = (np.arange(side) + 0.5) / side * 2 - 1
    return _INSIDE[shape](samples[None, :], samples[:, None]).astype(np.float64)
