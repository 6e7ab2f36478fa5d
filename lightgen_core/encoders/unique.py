"""Distinct captions, so that each is encoded once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def unique_texts(texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Return the distinct texts, sorted, and the index among them of each text."""
    unique, inverse = np.unique(texts, return_inverse=True)
    return unique.tolist(), inverse
