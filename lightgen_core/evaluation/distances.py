"""Distances of two sets of images in a space of features: Fréchet distance, KID and CMMD.

Each is a callable on rows of the images, the references being fixed, so that a set and its halves share the work
(`half_samples.py`). Their numbers compare only within one space, one number of images and one set of references.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from lightgen_core.evaluation.half_samples import Ints, TooFewImages

Features = Float[np.ndarray, "_ features"]
_BLOCK = 1024  # rows of a kernel computed at a time
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Bandwidth and factor of CMMD, as in its authors' code (google-research/cmmd/distance.py) and paper, Sec. 4."""


class FrechetDistance:
    """Fréchet distance of two sets as Gaussians (Heusel et al. 2017, Eq. 6); FID where the space is Inception's.

    |m - w|^2 + tr(C + D - 2 (C D)^(1/2)). The trace of the root is the sum of the singular values of the centred images
    times the root of D. It is biased upwards, the more the fewer images there are beside features.
    """

    def __init__(self, images: Features, references: Features) -> None:
        _require(images, references, 2)
        self._images, self._mean = images.astype(np.float64), references.mean(axis=0, dtype=np.float64)
        centred = (references - self._mean) / np.sqrt(len(references) - 1)
        _, root, axes = np.linalg.svd(centred, full_matrices=False)
        self._total = float((root**2).sum())
        self._projected = (self._images @ axes.T) * root

    def __call__(self, rows: Ints) -> float:
        """Return the distance of the images at `rows`; two or more."""
        images, projected = self._images[rows], self._projected[rows]
        mean, degrees = images.mean(axis=0), len(rows) - 1
        total = float(((images - mean) ** 2).sum()) / degrees
        centred = (projected - projected.mean(axis=0)) / np.sqrt(degrees)
        gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
        cross = float(np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None)).sum())
        return float(((mean - self._mean) ** 2).sum()) + total + self._total - 2 * cross


Kernel = Callable[[Features, Features], Float[np.ndarray, "_ _"]]


class KernelDistance:
    """Squared maximum mean discrepancy of two sets (Gretton et al. 2012, JMLR 13): Eq. 3 unbiased, else Eq. 5.

    The unbiased one has mean 0 for two sets of one distribution, so that it may be negative.
    """

    def __init__(
        self, images: Features, references: Features, kernel: Kernel, *, unbiased: bool, scale: float = 1.0
    ) -> None:
        _require(images, references, 2)
        self._unbiased, self._scale = unbiased, scale
        own, other = _kernel_matrix(images, images, kernel), _kernel_matrix(images, references, kernel)
        self._own, self._cross = own, other.mean(axis=1, dtype=np.float64)
        self._references = self._mean(_kernel_matrix(references, references, kernel))

    def __call__(self, rows: Ints) -> float:
        """Return the distance of the images at `rows`; two or more."""
        own = self._mean(self._own[np.ix_(rows, rows)])
        return self._scale * (own + self._references - 2 * float(self._cross[rows].mean()))

    def _mean(self, kernel: Float[np.ndarray, "n n"]) -> float:
        n, total = len(kernel), float(kernel.sum(dtype=np.float64))
        if self._unbiased:
            return (total - float(np.trace(kernel, dtype=np.float64))) / (n * (n - 1))
        return total / n**2


def kid(images: Features, references: Features) -> KernelDistance:
    """Return the kernel inception distance (Bińkowski et al. 2018, Sec. 4): unbiased, (x y / d + 1)^3.

    Of all images at once, not averaged over subsets of 1,000 as there; the mean is the same.
    """
    width = images.shape[1]
    return KernelDistance(images, references, lambda x, y: (x @ y.T / width + 1) ** 3, unbiased=True)


def cmmd(images: Features, references: Features) -> KernelDistance:
    """Return CMMD (Jayasumana et al. 2024): 1000 MMD^2 with a Gaussian kernel of bandwidth 10, of CLIP's unit vectors.

    The biased estimate, as in the authors' code: two sets of n images of one distribution have about 10 (1 - c) / n
    each, c the mean cosine. The authors' CLIP is ViT-L-14-336 of OpenAI.
    """

    def gaussian(x: Features, y: Features) -> Float[np.ndarray, "_ _"]:
        squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
        return np.exp(-np.clip(squares, 0, None) / (2 * CMMD_SIGMA**2))

    return KernelDistance(_unit(images), _unit(references), gaussian, unbiased=False, scale=CMMD_SCALE)


def _kernel_matrix(x: Features, y: Features, kernel: Kernel) -> Float[np.ndarray, "_ _"]:
    """Return a kernel of all pairs, computed in double precision and held in single."""
    columns = y.astype(np.float64)
    blocks = [
        kernel(x[start : start + _BLOCK].astype(np.float64), columns).astype(np.float32)
        for start in range(0, len(x), _BLOCK)
    ]
    return np.concatenate(blocks)


def _unit(values: Features) -> Features:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float64)


def _require(images: npt.NDArray[np.floating], references: npt.NDArray[np.floating], least: int) -> None:
    for name, values in (("images", images), ("references", references)):
        if len(values) < least:
            raise TooFewImages(f"found {len(values)} {name}; a distance of two sets needs {least} or more of each")
