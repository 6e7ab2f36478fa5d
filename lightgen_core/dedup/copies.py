"""Copies of an image under any caption, found by perceptual hashes and confirmed by thumbnails and captions.

No one threshold separates copies from look-alikes, such as red and green apples or clocks at one and two. Their
captions do: a copy comes with the same caption or with one of something else, a look-alike with a caption that names
the difference. So a pair is a copy if hashes and thumbnails agree and its captions are equal or unrelated; with related
captions only if the thumbnails are nearly equal, colours included.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

import faiss
import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import affine_transform

from lightgen_core.config import CopyConfig
from lightgen_core.dedup.copy_features import HASH_BYTES, THUMBNAIL, VIEWS
from lightgen_core.dedup.minhash import normalize_words
from lightgen_core.dedup.search import Indices

_QUERIES = 4096  # images of one search
_PAIRS = 32_768  # pairs whose thumbnails are compared at a time
_BRUTE_FORCE = 50_000  # images up to which looking at all of them is faster
_ALIGNING = 0.3  # most that aligning adds to a correlation
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Luminance = Float[np.ndarray, "pairs pixels"]


class CopyMatcher:
    """Find and confirm copies among images.

    Args:
        hashes: (n, VIEWS, HASH_BYTES) of `copy_features`.
        thumbnails: (n, THUMBNAIL, THUMBNAIL, 3).
        captions: (n,)
    """

    def __init__(
        self,
        hashes: UInt8[np.ndarray, "n views bytes"],
        thumbnails: UInt8[np.ndarray, "n side side 3"],
        captions: Sequence[str],
        config: CopyConfig,
    ) -> None:
        self.hashes, self.thumbnails, self.config = hashes, thumbnails, config
        words = [" ".join(normalize_words(caption)) or caption for caption in captions]
        code = {text: number for number, text in enumerate(dict.fromkeys(words))}
        self._caption = np.array([code[text] for text in words], np.int64)
        self._words = [frozenset(text.split()) for text in code]
        frequency = Counter(word for distinct in self._words for word in distinct)
        self._rarity = {word: float(np.log(len(code) / count)) for word, count in frequency.items()}

    def pairs(self, rows: Indices) -> tuple[Indices, Indices]:
        """Return the copies among some rows: pairs (later, earlier) of places in `rows`, sorted."""
        found = [np.empty((2, 0), np.int64)]
        for left, right in hamming_pairs(self.hashes[rows], self.config.hash_bits):
            later, earlier = np.maximum(left, right), np.minimum(left, right)
            agree = self.agree(rows[later], rows[earlier], self.config.correlation)
            found.append(np.stack([later[agree], earlier[agree]]))
        later, earlier = np.unique(np.concatenate(found, axis=1), axis=1)
        return later, earlier

    def confirm(self, left: Indices, right: Indices) -> Bool[np.ndarray, " pairs"]:
        """Return the pairs of rows, near in meaning, that are of one caption or agree by `semantic_correlation`."""
        confirmed = self._caption[left] == self._caption[right]
        others = np.flatnonzero(~confirmed)
        confirmed[others] = self.agree(left[others], right[others], self.config.semantic_correlation)
        return confirmed

    def agree(self, left: Indices, right: Indices, correlation: float) -> Bool[np.ndarray, " pairs"]:
        """Return the pairs of rows whose thumbnails correlate and whose captions do not explain the difference."""
        agree = np.zeros(len(left), bool)
        for start in range(0, len(left), _PAIRS):
            part = slice(start, start + _PAIRS)
            one, other = self.thumbnails[left[part]], self.thumbnails[right[part]]
            alike = _correlate(_luminance(one), _luminance(other), correlation)
            gap = np.abs(one.astype(np.int16) - other).mean(axis=(1, 2, 3))
            for pair in np.flatnonzero(alike & (gap > self.config.max_gap)):
                alike[pair] = not self._related(left[start + pair], right[start + pair])
            agree[part] = alike
        return agree

    def _related(self, left: int, right: int) -> bool:
        """True for different captions that share words; a word counts by its inverse document frequency."""
        one, other = self._words[self._caption[left]], self._words[self._caption[right]]
        either = sum(self._rarity[word] for word in one | other)
        shared = sum(self._rarity[word] for word in one & other)
        return self._caption[left] != self._caption[right] and shared >= self.config.related_captions * either


def hamming_pairs(
    hashes: UInt8[np.ndarray, "n views bytes"], bits: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield, in blocks, all pairs in which a view of one image is within `bits` (at most 11) of the other's first view.

    A pair comes up once for each view that finds it. The search is exact: of four quarters of 16 bits one differs by
    two bits at most, and all buckets within two bits of each quarter are looked into.
    """
    first = np.ascontiguousarray(hashes[:, 0])
    if len(first) <= _BRUTE_FORCE:
        index: faiss.IndexBinary = faiss.IndexBinaryFlat(8 * HASH_BYTES)
    else:
        index = faiss.IndexBinaryMultiHash(8 * HASH_BYTES, 4, 16)
        index.nflip = 2
    index.add(first)
    for start in range(0, len(first), _QUERIES):
        for view in range(VIEWS):
            queries = np.ascontiguousarray(hashes[start : start + _QUERIES, view])
            limits, _, other = index.range_search(queries, bits + 1)  # faiss: nearer than the radius
            row = start + np.repeat(np.arange(len(queries)), (limits[1:] - limits[:-1]).astype(np.int64))
            distinct = row != other
            yield row[distinct], other[distinct]


def _luminance(images: UInt8[np.ndarray, "pairs side side 3"]) -> Luminance:
    return (images @ _LUMA).reshape(len(images), -1)


def _correlate(one: Luminance, other: Luminance, threshold: float) -> Bool[np.ndarray, " pairs"]:
    """Return the pairs whose Pearson correlation reaches a threshold, either image as it is or aligned.

    Those far below it unaligned are not tried. Rounded: the order in which a BLAS sums must not decide.
    """
    best = np.maximum(_pearson(one, other), _pearson(one @ _mirror(), other))
    near = np.flatnonzero((best < threshold) & (best >= threshold - _ALIGNING))
    for move in _alignments():
        for pair in ((one[near] @ move, other[near]), (one[near], other[near] @ move)):
            best[near] = np.maximum(best[near], _pearson(*pair))
    return best.round(6) >= threshold


def _pearson(one: Luminance, other: Luminance) -> Float[np.ndarray, " pairs"]:
    left, right = (image - image.mean(axis=1, keepdims=True) for image in (one, other))
    norm = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return (left * right).sum(axis=1) / np.maximum(norm, THUMBNAIL**2)  # a contrast of one level


@cache
def _mirror() -> Float[np.ndarray, "pixels pixels"]:
    return _linear_map(np.diag([1.0, -1.0]))


@cache
def _alignments() -> list[Float[np.ndarray, "pixels pixels"]]:
    """Return maps of a thumbnail: without 5 % and 10 % at each side, rotated by 3 degrees both ways."""
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.deg2rad((-3, 3))]
    return [_linear_map(matrix) for matrix in (np.eye(2) * 0.9, np.eye(2) * 0.8, *turns)]


def _linear_map(matrix: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "pixels pixels"]:
    """Return what moving pixels by a matrix around the centre does to a flattened thumbnail, as a matrix."""
    centre = np.full(2, (THUMBNAIL - 1) / 2)
    pixels = np.eye(THUMBNAIL**2).reshape(-1, THUMBNAIL, THUMBNAIL)
    moved = [affine_transform(pixel, matrix, centre - matrix @ centre, order=1, mode="nearest") for pixel in pixels]
    return np.reshape(moved, (THUMBNAIL**2, -1))
