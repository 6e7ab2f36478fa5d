"""Is an image new, or a training image again: the nearest training image of each in a space of features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lightgen_core.evaluation.half_samples import TooFewImages

Features = Float[np.ndarray, "_ features"]
_BLOCK = 1024  # rows of cosines computed at a time
_CONTROLS = 1000
"""Training images that are looked for among the others: what the threshold finds without any student."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each image.

    distance: 1 - cosine; row: of the training image; control: distances of training images from the nearest other.
    """

    distance: Float[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    control: Float[np.ndarray, " m"]

    def closest(self, names: Sequence[str], training: Sequence[str], count: int) -> list[dict[str, object]]:
        """Return the images nearest to a training image, with both names."""
        order = np.argsort(self.distance, kind="stable")[:count]
        return [
            {"image": names[i], "training": training[self.row[i]], "distance": float(self.distance[i])} for i in order
        ]


def nearest_training(images: Features, training: Features, seed: int) -> Nearest:
    """Return the nearest training image of each image, and of a sample of the training images. Raises TooFewImages."""
    if len(training) < 2:
        raise TooFewImages(f"found {len(training)} training images; expected two or more")
    known = _unit(training)
    cosine, row = _nearest(_unit(images), known)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(known))[:_CONTROLS])
    control, _ = _nearest(known[chosen], known, own=chosen)
    return Nearest(1 - cosine, row, 1 - control)


def _nearest(x: Features, known: Features, own: Int[np.ndarray, " n"] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest cosine of each row and where it is; not at the row's `own` place."""
    cosines, places = [], []
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK] @ known.T
        if own is not None:
            block[np.arange(len(block)), own[start : start + _BLOCK]] = -np.inf
        places.append(block.argmax(axis=1))
        cosines.append(block.max(axis=1))
    return np.concatenate(cosines), np.concatenate(places)


def _unit(values: Features) -> Features:
    return values / np.linalg.norm(values, axis=1, keepdims=True)
