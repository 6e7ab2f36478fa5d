"""Precision and recall of images (Kynkäänniemi et al. 2019): are they like the references, and are all of these met?

The manifold of a set is the union of spheres around its features, each as wide as to the k-th nearest other one.
"""

import numpy as np
from jaxtyping import Bool, Float

from lightgen_core.evaluation.half_samples import Ints, TooFewImages

Features = Float[np.ndarray, "_ features"]
NEIGHBOUR = 3
"""k of the authors."""
_BLOCK = 1024  # rows of distances computed at a time


def precision(images: Features, references: Features, neighbour: int = NEIGHBOUR) -> Bool[np.ndarray, " n"]:
    """Return for each image whether it lies in the references' manifold; their share is the precision."""
    _require(references, "references", neighbour)
    radii = _radii(_squares(references, references), neighbour)
    return np.any(_squares(images, references) <= radii[None], axis=1)


class Recall:
    """Share of the references that lie in the manifold of the images at some rows."""

    def __init__(self, images: Features, references: Features, neighbour: int = NEIGHBOUR) -> None:
        _require(images, "images", 2 * neighbour + 1)  # halves are asked for too
        self._own, self._cross, self._neighbour = _squares(images, images), _squares(images, references), neighbour

    def __call__(self, rows: Ints) -> float:
        """Return the recall of the images at `rows`."""
        radii = _radii(self._own[np.ix_(rows, rows)], self._neighbour)
        return float((self._cross[rows] <= radii[:, None]).any(axis=0).mean())


def _radii(squares: Float[np.ndarray, "n n"], neighbour: int) -> Float[np.ndarray, " n"]:
    """Return the squared distance of each row's k-th nearest other row; the nearest of all is itself."""
    return np.partition(squares, neighbour, axis=1)[:, neighbour]


def _squares(x: Features, y: Features) -> Float[np.ndarray, "_ _"]:
    """Return squared distances of all pairs, computed in double precision and held in single."""
    from scipy.spatial.distance import cdist

    return np.concatenate(
        [cdist(x[start : start + _BLOCK], y, "sqeuclidean").astype(np.float32) for start in range(0, len(x), _BLOCK)]
    )


def _require(values: Features, name: str, neighbour: int) -> None:
    if len(values) <= neighbour:
        raise TooFewImages(f"found {len(values)} {name}; their manifold needs {neighbour + 1} or more")
