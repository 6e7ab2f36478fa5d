"""Captions as runs of word numbers, and hashes of their shingles."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Runs:
    """Distinct captions as runs of word numbers with marks of begin and end, end to end.

    Run i is `words[starts[i]:starts[i + 1]]`, of caption `rows[i]`; `first` is each caption's first equal one.
    """

    words: npt.NDArray[np.int32]
    starts: Ints
    rows: Ints
    group: Ints
    first: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def shingles(self, run: int) -> frozenset[tuple[int, ...]]:
        """Return all runs of two and of three words."""
        words = self.words[self.starts[run] : self.starts[run + 1]].tolist()
        return frozenset([*pairwise(words), *zip(words, words[1:], words[2:], strict=False)])


def hashed_shingles(words: Hashes, starts: Ints) -> tuple[Hashes, Hashes]:
    """Return hashes of the two and the three words from each word on; where a caption has no more, of its first two."""
    two, three = np.empty_like(words), np.empty_like(words)
    two[:-1] = mix((words[:-1] << np.uint64(32)) | words[1:])
    three[:-2] = mix(two[:-2] ^ (words[2:] + np.uint64(1)))
    spare = np.repeat(two[starts[:-1]], np.diff(starts))
    last = starts[1:] - 1
    two[last], three[last], three[last - 1] = spare[last], spare[last], spare[last]
    return two, three


def mix(value: Hashes) -> Hashes:
    """Return the finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection that looks random."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
