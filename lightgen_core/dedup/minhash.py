"""Captions that say the same in nearly the same words.

MinHash over ordered word shingles proposes pairs (Broder 1997; banding as in Leskovec, Rajaraman & Ullman, ch. 3) and
the exact Jaccard index decides. Shingles of two and three words, with marks for the caption's begin and end, keep the
order of words: "a red circle left of a blue square" shares 9 of 25 shingles with "a blue circle left of a red square",
although the words are the same. Case, accents' encoding and punctuation are folded away.
"""

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import regex

from lightgen_core.dedup.caption_runs import Hashes, Ints, Runs, hashed_shingles, mix
from lightgen_core.dedup.repeated_captions import SharedBuckets, drop_repeated

_WORD = regex.compile(r"\w+|(?=[\p{Extended_Pictographic}\p{Regional_Indicator}])\X")
"""A word with its combining marks, which `re` would split at, or one emoji with all that is joined to it."""
_PRESENTATION = str.maketrans("", "", "\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}\N{SOFT HYPHEN}")
_PERMUTATIONS = 256  # longest signature
_MISS = 1e-3  # largest chance that the bands overlook a pair at the threshold
_CHUNK = 8192  # captions hashed at a time
_BEGIN, _END = 0, 1  # word numbers of the caption's marks


@dataclass(frozen=True)
class CaptionDuplicates:
    """For each caption: does it stay, and if not, which earlier caption says it already.

    Attributes:
        kept: (n,) bool.
        duplicate_of: (n,) row of the kept caption it repeats; -1 where it stays.
        similarity: (n,) Jaccard index with that caption; NaN where it stays.
    """

    kept: npt.NDArray[np.bool_]
    duplicate_of: Ints
    similarity: npt.NDArray[np.float64]


@dataclass(frozen=True)
class TopicCoverage:
    """Count topics, most frequent first, and list the expected ones that never occur."""

    counts: dict[str, int]
    unused: tuple[str, ...]


def near_duplicate_captions(
    captions: Sequence[str],
    threshold: float,
    seed: int,
    *,
    groups: Sequence[object] | None = None,
    threads: int = 1,
) -> CaptionDuplicates:
    """Keep the first of each set of captions whose shingles have a Jaccard index of `threshold` or more.

    A caption is dropped only for a caption that stays. Captions equal after folding are always duplicates.

    Args:
        captions: texts; earlier ones win.
        threshold: Jaccard index of the shingle sets, above 0 and at most 1.
        seed: of the hash functions. A pair at the threshold is overlooked with a chance of at most 0.1 %.
        groups: (n,) only captions of one group can be duplicates of each other (such as their meaning: in a long
            caption one other word weighs little); None: all can.
        threads: that hash; the result is the same for any number.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"found threshold {threshold}; a Jaccard index to compare with is above 0 and at most 1")
    # Captions equal after folding are settled first: the rest then holds no text twice.
    runs = _read(captions, _codes(groups, len(captions)))
    settled, jaccard = np.arange(len(captions)), np.ones(len(captions))
    for place, (other, index) in drop_repeated(
        runs, _shared_buckets(runs, threshold, seed, threads), threshold
    ).items():
        settled[runs.rows[place]], jaccard[runs.rows[place]] = runs.rows[other], index
    duplicate_of, similarity = settled[runs.first], jaccard[runs.first]
    kept = duplicate_of == np.arange(len(captions))
    return CaptionDuplicates(kept, np.where(kept, -1, duplicate_of), np.where(kept, np.nan, similarity))


def topic_coverage(topics: Sequence[str] | Sequence[Sequence[str]], wanted: Sequence[str] = ()) -> TopicCoverage:
    """Count captions per topic.

    Args:
        topics: of each caption, one topic or several.
        wanted: the topics that should occur, such as a taxonomy's.
    """
    counts = Counter(name for each in topics for name in ([each] if isinstance(each, str) else sorted(set(each))))
    ranked = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return TopicCoverage(ranked, tuple(name for name in dict.fromkeys(wanted) if name not in counts))


def normalize_words(caption: str) -> list[str]:
    """The caption's words and emoji in order, without case and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", caption).casefold().translate(_PRESENTATION))


def _codes(groups: Sequence[object] | None, size: int) -> Ints:
    """Groups as integers; all one where there are none."""
    if groups is None:
        return np.zeros(size, np.int64)
    if len(groups) != size:
        raise ValueError(f"found {len(groups)} groups for {size} captions; expected one each")
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def _read(captions: Sequence[str], group: Ints) -> Runs:
    number: defaultdict[str, int] = defaultdict(lambda: len(number) + 2)
    words, starts, rows = array("i"), array("q", [0]), array("q")
    first, seen = np.empty(len(captions), np.int64), dict[bytes, int]()
    for row, (caption, code) in enumerate(zip(captions, group.tolist(), strict=True)):
        run = array("i", [_BEGIN, *(number[word] for word in normalize_words(caption)), _END])
        first[row] = seen.setdefault(run.tobytes() + code.to_bytes(8, "little"), row)
        if first[row] == row:
            words.extend(run)
            starts.append(len(words))
            rows.append(row)
    places = np.frombuffer(rows, np.int64) if rows else np.empty(0, np.int64)
    return Runs(np.array(words, np.int32), np.array(starts, np.int64), places, group[places], first)


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """Bands, and hashes of each, that overlook a pair at the threshold with a chance of at most 0.1 %.

    A pair of Jaccard index J meets in one band with chance J^rows. More rows mean fewer false candidates.
    """
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= _MISS:
            return bands, rows
    return _PERMUTATIONS, 1


def _shared_buckets(runs: Runs, threshold: float, seed: int, threads: int) -> SharedBuckets:
    """Return the buckets that runs of one group share: in a bucket are those of equal minima in one band."""
    bands, rows = bands_and_rows(threshold)
    rng = np.random.default_rng(seed)
    multipliers = rng.integers(0, 2**63, (bands, rows), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(0, 2**63, (bands, rows), dtype=np.uint64)
    keys = np.empty((bands, len(runs)), np.uint64)

    def fill(start: int) -> None:
        keys[:, start : start + _CHUNK] = _band_keys(runs, start, multipliers, offsets)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, len(runs), _CHUNK)))
    return SharedBuckets.of(keys)


def _band_keys(runs: Runs, start: int, multipliers: Hashes, offsets: Hashes) -> Hashes:
    """Return (bands, _CHUNK) keys of the runs from `start` on: their group and the band's minima, mixed."""
    starts = runs.starts[start : start + _CHUNK + 1]
    words = runs.words[starts[0] : starts[-1]].astype(np.uint64)
    two, three = hashed_shingles(words, starts - starts[0])
    keys = np.empty((len(multipliers), len(starts) - 1), np.uint64)
    for band, pairs in enumerate(zip(multipliers, offsets, strict=True)):
        key = mix(runs.group[start : start + _CHUNK].astype(np.uint64))
        for multiplier, offset in zip(*pairs, strict=True):
            smaller = np.minimum(two * multiplier + offset, three * multiplier + offset)
            key = mix(key ^ np.minimum.reduceat(smaller, starts[:-1] - starts[0]))
        keys[band] = key
    return keys
