"""Confidence intervals of scores: Wilson's for a rate, the bootstrap over prompts for a mean.

Images of one prompt are not independent, so the bootstrap resamples prompts (Ghosh et al. 2023 score four images of
each GenEval prompt). scipy computes both intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

_BLOCK = 4 * 2**20
"""Resampled indices held at a time: 32 MiB of int64."""

_Group = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Return `{"value", "low", "high", "n"}`, as in manifests and `--json`."""
        return asdict(self)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return the success rate with its Wilson score interval (Wilson 1927, JASA 22).

    Unlike the normal approximation it stays within 0..1 and has a width at 0 and at 1.
    """
    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"found {successes} successes of {n}; a rate needs n >= 1 and 0 <= successes <= n")
    from scipy.stats import binomtest  # late: its import takes a second, and most importers need `Interval` only

    ends = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high), n)


def bootstrap_mean(
    values: npt.ArrayLike, groups: Sequence[object], seed: int, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return the mean of values (n,) with a bootstrap interval over groups (n,) (Efron & Tibshirani 1993, ch. 13).

    Where every value is 0, or every value is 1, all resamples are equal and the bootstrap would claim certainty;
    the interval is then Wilson's, with one observation per group.
    """
    interval = macro_mean({"": (values, groups)}, seed, level, resamples)
    if np.all(np.asarray(values) == 0) or np.all(np.asarray(values) == 1):
        prompts = len(set(groups))
        ends = wilson_interval(prompts if interval.value else 0, prompts, level)
        return Interval(interval.value, ends.low, ends.high, interval.n)
    return interval


def macro_mean(
    by_category: Mapping[str, tuple[npt.ArrayLike, Sequence[object]]],
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the unweighted mean of the categories' means: GenEval's overall score.

    The bootstrap is stratified: each resample has as many prompts of a category as there are. `n` counts all values.

    Args:
        by_category: category -> (values, groups) as of `bootstrap_mean`.
    """
    _check_level(level)
    if not by_category:
        raise ValueError("no category to average; an overall score needs one or more")
    # Sorted, so that the interval does not depend on the order in which the caller filled the mapping.
    strata = [_group_sums(*by_category[name]) for name in sorted(by_category)]
    value = sum(float(sums.sum() / counts.sum()) for sums, counts in strata) / len(strata)
    n = int(sum(counts.sum() for _, counts in strata))
    low, high = _percentile_interval(strata, seed, level, resamples)
    # Sums of thirds and sixths round: without this a constant score could lie outside its own interval by 1e-16.
    return Interval(value, min(low, value), max(high, value), n)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"found confidence level {level}; it is a fraction between 0 and 1, such as 0.95")


def _group_sums(values: npt.ArrayLike, groups: Sequence[object]) -> _Group:
    """Return the sum and the number of the values of each group: (groups,), (groups,)."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(groups) or len(numbers) == 0:
        raise ValueError(f"found values of shape {numbers.shape} and {len(groups)} groups, expected one each")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{int((~np.isfinite(numbers)).sum())} of {len(numbers)} values are not finite; score them")
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(member, weights=numbers).astype(np.float64), np.bincount(member).astype(np.float64)


def _percentile_interval(strata: list[_Group], seed: int, level: float, resamples: int) -> tuple[float, float]:
    """Return the ends of the stratified bootstrap's percentile interval."""
    # scipy resamples indices of groups, a sample per stratum. It refuses samples of one, which cannot vary anyway.
    varying = [group for group in strata if len(group[0]) > 1]
    constant = sum(float(sums[0] / counts[0]) for sums, counts in strata if len(sums) == 1)
    if not varying:
        return constant / len(strata), constant / len(strata)
    from scipy.stats import bootstrap  # late, as above

    def statistic(*indices: npt.NDArray[np.int64], axis: int) -> npt.NDArray[np.float64]:
        means = [sums[i].sum(axis) / counts[i].sum(axis) for (sums, counts), i in zip(varying, indices, strict=True)]
        return (np.sum(means, axis=0) + constant) / len(strata)

    result = bootstrap(
        [np.arange(len(sums)) for sums, _ in varying],
        statistic,
        n_resamples=resamples,
        batch=max(1, _BLOCK // sum(len(sums) for sums, _ in varying)),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
