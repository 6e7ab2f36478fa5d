"""Captions that repeat an earlier one that stays, among those that share a bucket of MinHash.

Most runs that share a bucket have little in common. Bitmaps of their shingles, one bit each, bound the Jaccard index of
many pairs at once from above; only pairs that may reach the threshold are compared exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Self

import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.caption_runs import Hashes, Ints, Runs, hashed_shingles

_BLOCK = 1024  # runs decided at a time
_PAIRS = 2**19  # pairs bounded at a time
_CHUNK = 8192  # runs whose shingles are hashed at a time
_CACHED_SETS = 50_000  # runs whose shingles are kept
_BITS_EACH = 8  # of a bitmap, for each shingle of a run of mean length
_WORDS = (4, 64)  # least and most words of 64 bits of a bitmap


@dataclass(frozen=True)
class SharedBuckets:
    """Buckets of two runs or more.

    Run i is in `buckets[starts[i]:starts[i + 1]]`; `sizes` has the number of runs of each bucket.
    """

    buckets: npt.NDArray[np.int32]
    starts: Ints
    sizes: Ints

    @classmethod
    def of(cls, keys: Hashes) -> Self:
        """Return the buckets of keys (bands, runs): equal keys of one band are one bucket."""
        owners, buckets, sizes = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        used = 0
        for key in keys:
            order = np.argsort(key, kind="stable").astype(np.int32)
            number = np.cumsum(np.append(0, key[order][1:] != key[order][:-1])[: len(key)])
            size = np.bincount(number)
            shared = size > 1
            renumbered = np.cumsum(shared) - 1 + used
            owners.append(order[shared[number]])
            buckets.append(renumbered[number[shared[number]]].astype(np.int32))
            sizes.append(size[shared])
            used += int(shared.sum())
        owner = np.concatenate(owners)
        bucket = np.concatenate(buckets)[np.argsort(owner, kind="stable")]
        starts = np.append(0, np.cumsum(np.bincount(owner, minlength=keys.shape[1])))
        return cls(bucket, starts.astype(np.int64), np.concatenate(sizes))


def drop_repeated(runs: Runs, shared: SharedBuckets, threshold: float) -> dict[int, tuple[int, float]]:
    """Return dropped run -> (kept run it repeats most closely, Jaccard index), earlier captions first."""
    if not len(runs):
        return {}
    bitmaps, staying = _Bitmaps.of(runs, threshold), _Staying.none(shared.sizes)
    dropped: dict[int, tuple[int, float]] = {}
    shingles = lru_cache(_CACHED_SETS)(runs.shingles)
    for start, stop in _blocks(shared):
        own = slice(shared.starts[start], shared.starts[stop])
        bucket = shared.buckets[own]
        owner = np.repeat(np.arange(start, stop), np.diff(shared.starts[start : stop + 1]))
        order = np.argsort(bucket, kind="stable")
        bucket, owner = bucket[order], owner[order]
        pairs = [bitmaps.may_repeat(*pair) for pair in staying.pairs(bucket, owner)]
        pairs += [bitmaps.may_repeat(*pair) for pair in _pairs_within(bucket, owner)]
        for run, others in _by_run(np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)):
            best, index = -1, 0.0
            for other in others:
                if other not in dropped and (jaccard := _jaccard(shingles(run), shingles(other))) > index:
                    best, index = other, jaccard
            if index >= threshold:
                dropped[run] = (best, index)
        stays = np.array([run not in dropped for run in range(start, stop)], bool)[owner - start]
        staying.add(bucket[stays], owner[stays])
    return dropped


def _jaccard(one: frozenset, other: frozenset) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def _blocks(shared: SharedBuckets) -> Iterator[tuple[int, int]]:
    """Yield ranges of runs: short ones where many share a bucket, as a block pairs all runs within a bucket."""
    start, size, end = 0, _BLOCK, len(shared.starts) - 1
    while start < end:
        size = min(2 * size, _BLOCK)
        while size > 1:
            stop = min(start + size, end)
            counts = np.unique(shared.buckets[shared.starts[start] : shared.starts[stop]], return_counts=True)[1]
            if (counts * (counts - 1)).sum() <= 2 * _PAIRS:
                break
            size //= 2
        yield start, min(start + size, end)
        start += size


def _by_run(pairs: Ints) -> Iterator[tuple[int, list[int]]]:
    """Yield each run with the others of its pairs, ascending, each once."""
    for run, group in groupby(np.unique(pairs, axis=0).tolist(), key=lambda pair: pair[0]):
        yield run, [other for _, other in group]


def _pairs_within(bucket: npt.NDArray[np.int32], owner: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of a run and an earlier one of the same bucket; buckets ascend, and runs within them."""
    first = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1])) if len(bucket) else np.empty(0, np.int64)
    begin = np.repeat(first, np.diff(np.append(first, len(bucket))))
    for place, index in _expand(begin, np.arange(len(bucket)) - begin):
        yield owner[place], owner[index]


def _expand(begin: Ints, counts: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield places with each index of begin, begin + 1, ... up to their count, some `_PAIRS` at a time."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        some = counts[start:stop]
        place = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(place)) - np.repeat(ends[start:stop] - some - before, some)
        yield place, begin[place] + within
        start = stop


@dataclass(frozen=True)
class _Staying:
    """Runs that stay, by bucket: those of a bucket are `members[offsets[bucket]:][:counts[bucket]]`, ascending."""

    members: npt.NDArray[np.int32]
    offsets: Ints
    counts: Ints

    @classmethod
    def none(cls, sizes: Ints) -> Self:
        """Return buckets with room for as many runs as share them."""
        return cls(np.empty(sizes.sum(), np.int32), np.cumsum(sizes) - sizes, np.zeros(len(sizes), np.int64))

    def pairs(self, bucket: npt.NDArray[np.int32], owner: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield pairs of a run and one that stays in a bucket of it."""
        for place, index in _expand(self.offsets[bucket], self.counts[bucket]):
            yield owner[place], self.members[index].astype(np.int64)

    def add(self, bucket: npt.NDArray[np.int32], owner: Ints) -> None:
        """Add runs; buckets ascend, and runs within them."""
        found, first, counts = np.unique(bucket, return_index=True, return_counts=True)
        within = np.arange(len(bucket)) - np.repeat(first, counts)
        self.members[self.offsets[bucket] + self.counts[bucket] + within] = owner
        self.counts[found] += counts


@dataclass(frozen=True)
class _Bitmaps:
    """Shingles of each run, hashed to one bit each.

    bits: (runs, words). ones: (runs,) bits set, at most the number of shingles. lost: (runs,) at least the number of
    shingles that share a bit with another.
    """

    bits: Hashes
    ones: Ints
    lost: Ints
    share: float = field(default=0.0)

    @classmethod
    def of(cls, runs: Runs, threshold: float) -> Self:
        """Hash the shingles of runs. Sets of a and b with the Jaccard index t share t / (1 + t) (a + b)."""
        lengths = np.diff(runs.starts)
        most = 2 * lengths - 3  # pairs and triples of words, equal ones counted anew
        wanted = 2 ** int(np.ceil(np.log2(max(1.0, _BITS_EACH * float(most.mean()) / 64))))
        words = int(np.clip(wanted, *_WORDS))
        bits = np.zeros((len(runs), words), np.uint64)
        for start in range(0, len(runs), _CHUNK):
            starts = runs.starts[start : start + _CHUNK + 1]
            hashes = hashed_shingles(runs.words[starts[0] : starts[-1]].astype(np.uint64), starts - starts[0])
            row = np.repeat(np.arange(start, start + len(starts) - 1), np.diff(starts))
            for shingle in hashes:
                place = shingle % np.uint64(64 * words)
                one = np.uint64(1) << (place % np.uint64(64))
                np.bitwise_or.at(bits, (row, (place // np.uint64(64)).astype(np.int64)), one)
        ones = np.bitwise_count(bits).sum(1, dtype=np.int64)
        return cls(bits, ones, most - ones, threshold / (1 + threshold))

    def may_repeat(self, run: Ints, other: Ints) -> Ints:
        """Return those pairs, (pairs, 2), whose Jaccard index may reach the threshold: never one too few."""
        common = np.bitwise_count(self.bits[run] & self.bits[other]).sum(1, dtype=np.int64)
        most = common + np.minimum(self.lost[run], self.lost[other])
        possible = most >= self.share * (self.ones[run] + self.ones[other]) - 1e-9
        return np.stack([run[possible], other[possible]], axis=1)
