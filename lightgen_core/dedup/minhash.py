"""Captions that say the same in nearly the same words.

MinHash over ordered word shingles proposes pairs (Broder 1997; banding as in Leskovec, Rajaraman & Ullman, ch. 3) and
the exact Jaccard index decides. Shingles of two and three words, with marks for the caption's begin and end, keep the
order of words: "a red circle left of a blue square" shares 9 of 25 shingles with "a blue circle left of a red square",
although the words are the same. Case, accents' encoding and punctuation are folded away.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import regex

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

_WORD = regex.compile(r"\w+|(?=[\p{Extended_Pictographic}\p{Regional_Indicator}])\X")
"""A word with its combining marks, which `re` would split at, or one emoji with all that is joined to it."""
_PRESENTATION = str.maketrans("", "", "\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}\N{SOFT HYPHEN}")
_PERMUTATIONS = 256  # longest signature
_MISS = 1e-3  # largest chance that the bands overlook a pair at the threshold
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
    captions: Sequence[str], threshold: float, seed: int, *, groups: Sequence[object] | None = None
) -> CaptionDuplicates:
    """Keep the first of each set of captions whose shingles have a Jaccard index of `threshold` or more.

    A caption is dropped only for a caption that stays. Captions equal after folding are always duplicates.

    Args:
        captions: texts; earlier ones win.
        threshold: Jaccard index of the shingle sets, above 0 and at most 1.
        seed: of the hash functions. A pair at the threshold is overlooked with a chance of at most 0.1 %.
        groups: (n,) only captions of one group can be duplicates of each other (such as their meaning: in a long
            caption one other word weighs little); None: all can.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"found threshold {threshold}; a Jaccard index to compare with is above 0 and at most 1")
    folded = [" ".join(normalize_words(caption)) for caption in captions]
    # Captions equal after folding are settled first: the rest then holds no text twice.
    group = _codes(groups, len(captions))
    said = list(zip(group.tolist(), folded, strict=True))
    first = {each: row for row, each in reversed(list(enumerate(said)))}
    rows = np.sort(np.fromiter(first.values(), np.int64, len(first)))
    sets = _shingle_sets([folded[row] for row in rows])
    buckets = _buckets(sets, group[rows], threshold, seed)
    settled, jaccard = np.arange(len(captions)), np.ones(len(captions))
    for place, (other, index) in _greedy(sets, buckets, threshold).items():
        settled[rows[place]], jaccard[rows[place]] = rows[other], index
    firsts = np.array([first[each] for each in said], np.int64)
    duplicate_of, similarity = settled[firsts], jaccard[firsts]
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


@dataclass(frozen=True)
class _Sets:
    """Shingle sets of captions, end to end: caption i holds `shingles[starts[i]:starts[i + 1]]`, ascending."""

    shingles: Ints
    starts: Ints
    distinct: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, caption: int) -> frozenset[int]:
        return frozenset(self.shingles[self.starts[caption] : self.starts[caption + 1]].tolist())


def _shingle_sets(texts: Sequence[str]) -> _Sets:
    """Number all runs of two and of three words, the marks of begin and end counted as words."""
    number: defaultdict[str, int] = defaultdict(lambda: len(number) + 2)
    runs = [[_BEGIN, *(number[word] for word in text.split()), _END] for text in texts]
    lengths = np.array([len(run) for run in runs], np.int64)
    word = np.fromiter((each for run in runs for each in run), np.int64, lengths.sum())
    caption = np.repeat(np.arange(len(runs)), lengths)
    inside = word[:-1] != _END  # not across two captions
    vocabulary = len(number) + 2
    two_kinds, two = np.unique((word[:-1] * vocabulary + word[1:])[inside], return_inverse=True)
    # A run of three is a run of two and one word more; numbers of runs instead of words keep the product small.
    two_at = np.full(len(word), -1, np.int64)
    two_at[np.flatnonzero(inside)] = two
    whole = inside[:-1] & (word[1:-1] != _END)
    three_kinds, three = np.unique((two_at[:-2] * vocabulary + word[2:])[whole], return_inverse=True)
    distinct = len(two_kinds) + len(three_kinds)
    shingle = np.concatenate([two, three + len(two_kinds)])
    owner = np.concatenate([caption[:-1][inside], caption[:-2][whole]])
    members = np.unique(owner * max(distinct, 1) + shingle)
    starts = np.searchsorted(members // max(distinct, 1), np.arange(len(runs) + 1))
    return _Sets(members % max(distinct, 1), starts, distinct)


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """Bands, and hashes of each, that overlook a pair at the threshold with a chance of at most 0.1 %.

    A pair of Jaccard index J meets in one band with chance J^rows. More rows mean fewer false candidates.
    """
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= _MISS:
            return bands, rows
    return _PERMUTATIONS, 1


def _buckets(sets: _Sets, group: Ints, threshold: float, seed: int) -> Ints:
    """(captions, bands) the bucket a caption shares with others of its group in each band; -1: it is alone there."""
    bands, rows = bands_and_rows(threshold)
    salts = np.random.default_rng(seed).integers(0, 2**63, (bands, rows), dtype=np.uint64)
    identity = _mix(np.arange(sets.distinct, dtype=np.uint64))
    buckets = np.full((len(sets), bands), -1, np.int64)
    used = 0
    for band in range(bands):
        key = _mix(group.astype(np.uint64))
        for salt in salts[band]:
            key = _mix(key ^ np.minimum.reduceat(_mix(identity ^ salt)[sets.shingles], sets.starts[:-1]))
        _, bucket, size = np.unique(key, return_inverse=True, return_counts=True)
        shared = size[bucket] > 1
        buckets[shared, band] = bucket[shared] + used
        used += len(size)
    return buckets


def _mix(value: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection that looks random."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _greedy(sets: _Sets, buckets: Ints, threshold: float) -> dict[int, tuple[int, float]]:
    """Dropped caption -> (kept caption it repeats most closely, Jaccard index), earlier captions first."""
    dropped: dict[int, tuple[int, float]] = {}
    staying: defaultdict[int, list[int]] = defaultdict(list)
    shingles: dict[int, frozenset[int]] = {}
    for caption in np.flatnonzero((buckets >= 0).any(axis=1)).tolist():
        shared = buckets[caption][buckets[caption] >= 0].tolist()
        mine = sets.of(caption)
        best, index = -1, 0.0
        for other in sorted({other for bucket in shared for other in staying[bucket]}):
            common = len(mine & shingles[other])
            jaccard = common / (len(mine) + len(shingles[other]) - common)
            if jaccard > index:
                best, index = other, jaccard
        if index >= threshold:
            dropped[caption] = (best, index)
            continue
        shingles[caption] = mine
        for bucket in shared:
            staying[bucket].append(caption)
    return dropped
