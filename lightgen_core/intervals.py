"""Confidence intervals of scores: Wilson's for a rate, the bootstrap over prompts, and seeds crossed with prompts.

Images of one prompt are not independent, so the bootstrap resamples prompts (Ghosh et al. 2023 score four images of
each GenEval prompt). scipy computes both intervals. `python -m benchmarks.interval_coverage` measures how often each
holds the truth.
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
    values: npt.ArrayLike,
    groups: Sequence[object],
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
    *,
    paired: bool = False,
) -> Interval:
    """Return the mean of values (n,) with a bootstrap interval over groups (n,) (Efron & Tibshirani 1993, ch. 13).

    See `macro_mean` for values that are all the same.
    """
    return macro_mean({"": (values, groups)}, seed, level, resamples, paired=paired)


def macro_mean(
    by_category: Mapping[str, tuple[npt.ArrayLike, Sequence[object]]],
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
    *,
    paired: bool = False,
) -> Interval:
    """Return the unweighted mean of the categories' means: GenEval's overall score.

    The bootstrap is stratified: each resample has as many prompts of a category as there are. `n` counts all values.
    Where every value is 0, or every value is 1, all resamples are equal and the bootstrap would claim certainty; the
    interval is then Wilson's, with one observation per group.

    Args:
        by_category: category -> (values, groups) as of `bootstrap_mean`.
        paired: values are differences of verdicts: where all are the same, the interval reaches as far to both sides.
    """
    _check_level(level)
    if not by_category:
        raise ValueError("no category to average; an overall score needs one or more")
    # Sorted, so that the interval does not depend on the order in which the caller filled the mapping.
    strata = [_group_sums(*by_category[name]) for name in sorted(by_category)]
    value = sum(float(sums.sum() / counts.sum()) for sums, counts in strata) / len(strata)
    n = int(sum(counts.sum() for _, counts in strata))
    low, high = _percentile_interval(strata, seed, level, resamples)
    every = np.concatenate([np.asarray(values, np.float64) for values, _ in by_category.values()])
    if np.all(every == every[0]) and every[0] in (-1, 0, 1):
        prompts = sum(len(counts) for _, counts in strata)
        width = wilson_interval(0, prompts, level).high
        least = -1.0 if paired else 0.0
        low, high = max(least, value - width), min(1.0, value + width)
    # Sums of thirds and sixths round: without this a constant score could lie outside its own interval by 1e-16.
    return Interval(value, min(low, value), max(high, value), n)


def crossed_mean(by_category: Mapping[str, tuple[npt.ArrayLike, Sequence[object]]], level: float = 0.95) -> Interval:
    """Return the mean of the categories' means with an interval for new seeds *and* new prompts.

    Seeds and prompts are crossed: every seed's student answers the same prompts. The variance of the mean then has a
    part of seeds, a part of prompts, and one of their interaction, which the variance between seeds and the variance
    between prompts both hold (Owen 2007, "The pigeonhole bootstrap"). The squared half width is t^2 V_seeds +
    z^2 max(0, V_prompts - V_interaction), t with one degree of freedom less than seeds: for means whose variances are
    known that differently well, squared half widths add (Howe 1974, JASA 69). With one seed it is V_prompts alone, and
    says nothing about another training. Of differences of two students on the same prompts and seeds it is the paired
    difference. A category whose values are all the same counts as if one of its prompts might differ by one.

    Args:
        by_category: category -> (values (seeds, n), groups (n,) of prompts).

    Raises:
        ValueError: no category, values of another shape or not finite, or categories of different seeds.
    """
    _check_level(level)
    if not by_category:
        raise ValueError("no category to average; an overall score needs one or more")
    from scipy.stats import norm, t  # late, as above

    tables = [_seed_sums(*by_category[name]) for name in sorted(by_category)]
    seeds, weight = len(tables[0][0]), 1 / len(tables)
    if any(len(sums) != seeds for sums, _ in tables):
        raise ValueError(f"found categories of {sorted({len(sums) for sums, _ in tables})} seeds, expected one number")
    means = np.mean([sums.sum(1) / counts.sum() for sums, counts in tables], axis=0)
    prompts = interaction = 0.0
    for sums, counts in tables:
        influence = weight * (sums - counts * (sums.sum(1, keepdims=True) / counts.sum())) / counts.sum()
        correction = len(counts) / max(1, len(counts) - 1)
        if np.ptp(sums / counts) == 0:
            prompts += (weight / len(counts)) ** 2
        prompts += correction * float((influence.mean(0) ** 2).sum())
        interaction += correction * float(((influence - influence.mean(0)) ** 2).sum()) / (seeds * max(1, seeds - 1))
    tail = (1 + level) / 2
    square = norm.ppf(tail) ** 2 * max(0.0, prompts - interaction)
    if seeds > 1:
        square += t.ppf(tail, seeds - 1) ** 2 * float(means.var(ddof=1)) / seeds
    if square == 0:  # seeds that happen to agree are not certain
        square = norm.ppf(tail) ** 2 * max(prompts, interaction)
    value, half = float(means.mean()), float(np.sqrt(square))
    observations = sum(np.size(values) for values, _ in by_category.values())
    return Interval(value, value - half, value + half, observations)


def crossed_rate(values: npt.ArrayLike, groups: Sequence[object], level: float = 0.95) -> Interval:
    """Return a rate's mean over seeds and prompts with Wilson's interval at the effective number of observations.

    That number is what a rate of independent observations with `crossed_mean`'s variance would have (Korn & Graubard
    1998, Survey Methodology 24), so that images of one prompt count as much as they say, and the interval stays within
    0 to 1 and has a width at its ends.

    Args:
        values: (seeds, n) of 0 and 1.
        groups: (n,) prompts.
    """
    from scipy.stats import norm  # late, as above

    mean = crossed_mean({"": (values, groups)}, level)
    rate, half, z2 = mean.value, mean.high - mean.value, norm.ppf((1 + level) / 2) ** 2
    n = float(len(set(groups))) if rate in (0, 1) else min(mean.n, z2 * rate * (1 - rate) / half**2)
    middle, spread = rate + z2 / (2 * n), np.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n**2)))
    low, high = (middle - spread) / (1 + z2 / n), (middle + spread) / (1 + z2 / n)
    return Interval(rate, max(0.0, min(float(low), rate)), min(1.0, max(float(high), rate)), mean.n)


def _seed_sums(values: npt.ArrayLike, groups: Sequence[object]) -> _Group:
    """Return each seed's sum of the values of each group, and the number of these: (seeds, groups), (groups,)."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 2:
        raise ValueError(f"found values of shape {numbers.shape}, expected (seeds, {len(groups)})")
    if numbers.shape[1] != len(groups) or not numbers.size:
        raise ValueError(f"found values of shape {numbers.shape}, expected (seeds, {len(groups)}), one seed or more")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{int((~np.isfinite(numbers)).sum())} of {numbers.size} values are not finite; score them")
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(member).astype(np.float64)
    return np.stack([np.bincount(member, weights=row) for row in numbers]), counts


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
