"""The order in which training sees the rows: a permutation an epoch, a pure function of the seed.

Rows of several buckets take turns, each bucket with an order of its own (`bucket_turn`), and so do classes of rows with
a weight (`weighted_turns`).
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from lightgen_core.seeds import derive_seed

EpochOrder = Callable[[int, int, int], np.ndarray]
"""Function of epoch, rows and seed to a permutation."""

_TURN = 2**64
"""Points of the circle on which `bucket_turn` steps."""
_STEP = 0x9E3779B97F4A7C15
"""A golden step: it meets arcs evenly, and, being odd, every point once."""


def rows_at(positions: np.ndarray, rows: int, seed: int, order: EpochOrder | None = None) -> np.ndarray:
    """Return the rows at positions of the endless training order.

    Epoch e holds positions e * rows to (e + 1) * rows - 1 and visits every row once, in an order of its own. Batch
    size, world size and number of readers do not change it, and one integer resumes it.

    Args:
        positions: int64 array, 0 or more, of any shape.
        rows: number of rows in the set.
        order: a cached `epoch_order` of the caller's own; None: one that all share.
    """
    epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), rows)
    result, order = np.empty_like(offsets), order or epoch_order
    for epoch in np.unique(epochs).tolist():
        inside = epochs == epoch
        result[inside] = order(epoch, rows, seed)[offsets[inside]]
    return result


def new_epoch_order() -> EpochOrder:
    """Return `epoch_order` with a cache of its own, of the epoch that ends and of the one that begins."""
    return lru_cache(maxsize=2)(epoch_order.__wrapped__)


@lru_cache(maxsize=2)
def epoch_order(epoch: int, rows: int, seed: int) -> np.ndarray:
    """Return a permutation of range(rows), int64 (rows,): 8 bytes a row, and 8 s for 100 million rows."""
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(rows)


def bucket_turn(step: int, rows: Sequence[int], seed: int) -> tuple[int, int]:
    """Return the bucket of a step, and how many steps before it were of that bucket.

    Buckets own arcs of a circle in proportion to their rows. Steps of the golden ratio around it fall into each arc in
    proportion, and more evenly than chance would: after any number of steps every bucket has had its share up to a few
    of them. Earlier steps do not depend on later ones, and nothing has to be kept between steps.

    Args:
        rows: of each bucket; one with none gets no step.
        seed: gives the point at which the steps begin.
    """
    total, begin = sum(rows), 2 * derive_seed(seed, "buckets")
    ends = [end * _TURN // total for end in accumulate(rows)]
    point = (begin + step * _STEP) % _TURN
    bucket = next(number for number, end in enumerate(ends) if point < end)
    first = ends[bucket - 1] if bucket else 0
    return bucket, _visits(step, begin, ends[bucket]) - _visits(step, begin, first)


def weighted_turns(start: int, stop: int, weights: Sequence[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for positions start to stop the class whose turn it is, and how many positions before were of that class.

    As `bucket_turn`, at many positions at once: (stop - start,) int64 each. Weights need not add up to 1; a class of
    weight 0 has no turn. Positions do not depend on `stop`, nor on how many are asked for at once.

    Raises:
        ValueError: no weight is above 0.
    """
    classes = [number for number, weight in enumerate(weights) if weight > 0]
    if not classes:
        raise ValueError(f"weights {list(weights)}: expected one above 0")
    total, begin = sum(Fraction(weights[number]) for number in classes), 2 * derive_seed(seed, "turns")
    ends = [int(end * _TURN / total) for end in accumulate(Fraction(weights[number]) for number in classes)]
    positions = np.arange(start, stop, dtype=np.uint64)
    points = np.uint64(begin % _TURN) + positions * np.uint64(_STEP)  # of a circle: what overflows is meant to
    places = np.searchsorted(np.array(ends[:-1], np.uint64), points, side="right")
    turns = np.empty(len(places), np.int64)
    for place, (first, end) in enumerate(pairwise([0, *ends])):
        own = places == place
        before = _visits(start, begin, end) - _visits(start, begin, first)
        turns[own] = np.arange(before, before + int(own.sum()))
    return np.array(classes)[places], turns


def _visits(steps: int, begin: int, end: int) -> int:
    """Return how many of the first steps fall below a point of the circle.

    For x = begin + step * _STEP and the circle T, floor(x / T) - floor((x - end) / T) is 1 below it and else 0.
    """
    return _floor_sum(steps, _STEP, begin) - _floor_sum(steps, _STEP, begin - end)


def _floor_sum(count: int, slope: int, offset: int) -> int:
    """Return the sum of floor((slope * i + offset) / T) over i < count, by Euclid's algorithm."""
    total, divisor = 0, _TURN
    while count:
        total += count * (count - 1) // 2 * (slope // divisor) + count * (offset // divisor)
        slope, offset = slope % divisor, offset % divisor
        count, offset = divmod(slope * count + offset, divisor)
        slope, divisor = divisor, slope
    return total
