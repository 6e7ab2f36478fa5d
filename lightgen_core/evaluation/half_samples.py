"""Intervals of statistics of a whole set of images, such as a distance of two distributions.

The bootstrap draws an image twice, and to a statistic of pairs or of nearest neighbours a copy is no second image: its
distance is 0, so radii shrink, kernels grow and the effective number falls. Halves drawn without replacement have no
copies. The variance of a statistic over halves is that of the whole set's statistic, up to the factor m / (g - m) for m
of g prompts (the delete-d jackknife: Shao & Wu 1989, Annals of Statistics 17).
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lightgen_core.intervals import Interval

HALVES = 100
"""Halves drawn: they know a standard deviation to 7 %."""
LEAST_PROMPTS = 4

Ints = npt.NDArray[np.int64]


class TooFewImages(ValueError):
    """A set that is too small for the metric, or for its interval."""


def half_sample_interval(
    statistic: Callable[[Ints], float],
    groups: Sequence[object],
    seed: int,
    *,
    level: float = 0.95,
    halves: int = HALVES,
) -> Interval:
    """Return a statistic of all images with its interval for other prompts and other images of them.

    What the images are compared with stays as it is. A statistic that depends on the number of images keeps that
    dependence: the interval is about sets of this number.

    Args:
        statistic: of the images at some rows.
        groups: (n,) prompt of each image; the images of a prompt are drawn together.

    Raises:
        TooFewImages: fewer than four prompts.
    """
    from scipy.stats import norm  # late: its import takes a second

    _, member = np.unique(np.asarray(groups), return_inverse=True)
    prompts = int(member.max()) + 1 if len(member) else 0
    if prompts < LEAST_PROMPTS:
        raise TooFewImages(f"found images of {prompts} prompts; an interval over prompts needs {LEAST_PROMPTS} or more")
    rng, half = np.random.default_rng(seed), prompts // 2
    value = statistic(np.arange(len(member)))
    drawn = []
    for _ in range(halves):
        chosen = np.zeros(prompts, dtype=bool)
        chosen[rng.choice(prompts, half, replace=False)] = True
        drawn.append(statistic(np.flatnonzero(chosen[member])))
    spread = float(np.std(drawn, ddof=1)) * np.sqrt(half / (prompts - half)) * float(norm.ppf((1 + level) / 2))
    return Interval(value, value - spread, value + spread, len(member))
