"""Measures of an image's pixels: size, sharpness and entropy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

MEASURED_SIDE = 512
"""Longest side at which sharpness and entropy are measured, px: a large image is not blurred for being large."""


class PixelMeasures(NamedTuple):
    """Width and height, px; sharpness, squared levels; entropy, bits."""

    width: int
    height: int
    sharpness: float
    entropy: float


def measure_pixels(image: UInt8[np.ndarray, "height width 3"]) -> PixelMeasures:
    """Measure an image; the luminance is ITU-R 601's, of 0 to 255 levels.

    Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield
    microscopy"): of each inner pixel, the sum of its four neighbours less four times itself. Entropy is Shannon's, of
    the histogram of levels.
    """
    grey = Image.fromarray(image).convert("L")
    width, height = grey.size
    if max(grey.size) > MEASURED_SIDE:
        grey.thumbnail((MEASURED_SIDE, MEASURED_SIDE), Image.Resampling.BOX)
    levels = np.asarray(grey)
    return PixelMeasures(width, height, _sharpness(levels.astype(np.float64)), _entropy(levels))


def _sharpness(levels: np.ndarray) -> float:
    """Return the Laplacian's variance; 0 of an image without inner pixels."""
    if min(levels.shape) < 3:
        return 0.0
    sides = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((sides - 4 * levels[1:-1, 1:-1]).var())


def _entropy(levels: np.ndarray) -> float:
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum()) + 0.0  # no minus zero
