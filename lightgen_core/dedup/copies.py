"""Copies of an image under any caption, found by perceptual hashes and confirmed by thumbnails and captions.

No one threshold separates copies from look-alikes, such as red and green apples or clocks at one and two. Their
captions do: a copy comes with the same caption or with one of something else, a look-alike with a caption that names
the difference. So a pair is a copy if hashes and thumbnails agree and its captions are equal or unrelated; with related
captions only if the thumbnails are nearly equal, colours included.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import affine_transform
from scipy.sparse import csr_array

from lightgen_core.dedup.config import CopyConfig
from lightgen_core.dedup.copy_features import THUMBNAIL
from lightgen_core.dedup.hash_index import HashIndex
from lightgen_core.dedup.minhash import normalize_words
from lightgen_core.dedup.search import Indices, SearchThreads

_PAIRS = 32_768  # pairs whose thumbnails are compared at a time
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
        self._words = list(code)
        frequency = Counter(word for text in code for word in set(text.split()))
        self._rarity = {word: float(np.log(len(code) / count)) for word, count in frequency.items()}

    def pairs(self, rows: Indices, threads: int = 1) -> tuple[Indices, Indices]:
        """Return the copies among some rows: pairs (later, earlier) of places in `rows`, sorted.

        Of each row, the nearest hashes are looked at (`hash_index.NEAREST`).
        """
        index = HashIndex(self.config.hash_bits, SearchThreads(threads))
        index.add(self.hashes[rows], np.arange(len(rows)))
        left, right, _ = index.search(self.hashes[rows])
        later, earlier = np.unique(np.sort(np.stack([right, left])[:, left != right], axis=0), axis=1)[::-1]
        agree = self.agree(rows[later], rows[earlier], self.config.correlation)
        order = np.lexsort((earlier[agree], later[agree]))
        return later[agree][order], earlier[agree][order]

    def same_caption(self, left: Indices, right: Indices) -> Bool[np.ndarray, " pairs"]:
        """Return the pairs of rows whose captions have equal words."""
        return self._caption[left] == self._caption[right]

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
        one, other = (set(self._words[self._caption[row]].split()) for row in (left, right))
        either = sum(self._rarity[word] for word in sorted(one | other))
        shared = sum(self._rarity[word] for word in sorted(one & other))
        return self._caption[left] != self._caption[right] and shared >= self.config.related_captions * either


def _luminance(images: UInt8[np.ndarray, "pairs side side 3"]) -> Luminance:
    return (images @ _LUMA).reshape(len(images), -1)


def _correlate(one: Luminance, other: Luminance, threshold: float) -> Bool[np.ndarray, " pairs"]:
    """Return the pairs whose Pearson correlation reaches a threshold, either image as it is or aligned.

    Those far below it unaligned are not tried. Rounded: the order in which a BLAS sums must not decide.
    """
    mirrored = one.reshape(-1, THUMBNAIL, THUMBNAIL)[:, :, ::-1].reshape(one.shape)
    best = np.maximum(_pearson(one, other), _pearson(mirrored, other))
    near = np.flatnonzero((best < threshold) & (best >= threshold - _ALIGNING))
    for move in _alignments() if len(near) else ():
        for pair in ((one[near] @ move, other[near]), (one[near], other[near] @ move)):
            best[near] = np.maximum(best[near], _pearson(*pair))
    return best.round(6) >= threshold


def _pearson(one: Luminance, other: Luminance) -> Float[np.ndarray, " pairs"]:
    left, right = (image - image.mean(axis=1, keepdims=True) for image in (one, other))
    norm = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return (left * right).sum(axis=1) / np.maximum(norm, THUMBNAIL**2)  # a contrast of one level


@cache
def _alignments() -> list[csr_array]:
    """Return maps of a thumbnail: without 5 % and 10 % at each side, rotated by 3 degrees both ways."""
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.deg2rad((-3, 3))]
    return [_linear_map(matrix) for matrix in (np.eye(2) * 0.9, np.eye(2) * 0.8, *turns)]


def _linear_map(matrix: Float[np.ndarray, "2 2"]) -> csr_array:
    """Return what moving pixels by a matrix around the centre does to a flattened thumbnail, as a matrix."""
    centre = np.full(2, (THUMBNAIL - 1) / 2)
    pixels = np.eye(THUMBNAIL**2).reshape(-1, THUMBNAIL, THUMBNAIL)
    moved = [affine_transform(pixel, matrix, centre - matrix @ centre, order=1, mode="nearest") for pixel in pixels]
    return csr_array(np.reshape(moved, (THUMBNAIL**2, -1)))
