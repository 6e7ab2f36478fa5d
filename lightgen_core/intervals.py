"""Intervals for scores: Wilson for a share, a bootstrap over prompts for a mean, GenEval's overall.

Images of one prompt are not independent, so the unit that is resampled is the prompt (Ghosh et al. 2023 score four
images of each GenEval prompt). Everything is numpy and seeded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

# Weights of one pass of resampling, at most: 64 MiB of float64.
_BLOCK = 8 * 2**20


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """`{"value", "low", "high", "n"}`, as manifests and `--json` print it."""
        return asdict(self)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Share of successes with the Wilson score interval (Wilson 1927, JASA 22).

    Unlike the normal approximation it stays inside 0..1 and has a width at 0 and at 1.
    """
    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"found {successes} successes of {n}; a share needs n >= 1 and 0 <= successes <= n")
    from scipy.special import ndtri  # late: many take intervals from here, few compute one

    z = float(ndtri((1 + level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Interval(share, low, high, n)


def bootstrap_mean(
    values: npt.ArrayLike, groups: Sequence[object], seed: int, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Mean of `values` with a percentile interval of the bootstrap over groups (Efron & Tibshirani 1993, ch. 13).

    Args:
        values: (n,) numbers, for a score 0 or 1 per image.
        groups: (n,) prompt of each value; whole prompts are drawn with replacement.
        seed: of the resampling.
        level: confidence level.
        resamples: bootstrap samples.

    Where every value is 0, or every value is 1, each resample is the same and the bootstrap would claim certainty;
    the interval is then Wilson's, with one observation per group.
    """
    _check_level(level)
    sums, counts = _group_sums(values, groups)
    mean, n = float(sums.sum() / counts.sum()), int(counts.sum())
    if np.all(sums == 0) or np.all(np.asarray(values) == 1):
        ends = wilson(len(sums) if mean else 0, len(sums), level)
        return Interval(mean, ends.low, ends.high, n)
    means = _resampled_means(sums, counts, np.random.default_rng(seed), resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)


def overall(
    by_category: Mapping[str, tuple[npt.ArrayLike, Sequence[object]]],
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """GenEval's overall score: the unweighted mean of the categories' means, whatever their sizes.

    Args:
        by_category: category -> (values, groups) as `bootstrap_mean` takes them.
        seed: of the resampling.
        level: confidence level.
        resamples: bootstrap samples.

    The bootstrap is stratified: each resample draws as many prompts of a category as it has. `n` counts all values.
    """
    _check_level(level)
    if not by_category:
        raise ValueError("no category to average; an overall score needs one or more")
    # Sorted, so that the interval does not depend on the order in which the caller filled the mapping.
    names = sorted(by_category)
    streams = np.random.default_rng(seed).spawn(len(names))
    value, n = 0.0, 0
    means = np.zeros(resamples)
    for name, stream in zip(names, streams, strict=True):
        sums, counts = _group_sums(*by_category[name])
        value += float(sums.sum() / counts.sum()) / len(names)
        n += int(counts.sum())
        means += _resampled_means(sums, counts, stream, resamples) / len(names)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # Sums of thirds and sixths round: without this a constant score could lie outside its own interval by 1e-16.
    return Interval(value, min(float(low), value), max(float(high), value), n)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"found confidence level {level}; it is a share between 0 and 1, such as 0.95")


def _group_sums(
    values: npt.ArrayLike, groups: Sequence[object]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum and number of the values of each group: (groups,), (groups,)."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(groups) or len(numbers) == 0:
        raise ValueError(f"found values of shape {numbers.shape} and {len(groups)} groups, expected one each")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{int((~np.isfinite(numbers)).sum())} of {len(numbers)} values are not finite; score them")
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(member, weights=numbers).astype(np.float64), np.bincount(member).astype(np.float64)


def _resampled_means(
    sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> npt.NDArray[np.float64]:
    """Means of `resamples` draws of whole groups with replacement: (resamples,)."""
    size = len(sums)
    step = max(1, _BLOCK // size)
    means = []
    for start in range(0, resamples, step):
        # How often each group is drawn: the multinomial is the draw with replacement, already counted.
        drawn = rng.multinomial(size, np.full(size, 1 / size), size=min(step, resamples - start))
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)
