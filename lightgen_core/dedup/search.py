"""Search for near vectors: faiss proposes candidates and numpy confirms them one by one.

Every candidate pair's cosine is computed anew in float64 without BLAS, so what is above a threshold does not depend on
the index, on threads or on the BLAS at hand. What faiss overlooks does depend on the last bits of its sums: a unit of
rows is therefore searched by one thread, however many there are.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import faiss
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Result = TypeVar("Result")

UNIT = 512
"""Rows that a thread searches at a time."""

_EXACT_QUERIES = 1024  # queries of one brute-force block
_CONFIRM = 4096  # pairs whose vectors are gathered at a time
_BASE = 16_384  # rows that one block meets


class Pairs(NamedTuple):
    """Pairs of places, sorted by `row`, then `other`."""

    row: Indices
    other: Indices
    similarity: npt.NDArray[np.float64]

    def where(self, keep: npt.NDArray[np.bool_]) -> "Pairs":
        """Return those for which `keep` (pairs,) is true."""
        return Pairs(self.row[keep], self.other[keep], self.similarity[keep])


class SearchThreads:
    """Threads that work on units of rows, in each of which faiss and its BLAS are single-threaded."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,))

    def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Return a function's result, computed by one of the threads."""
        return self._pool.submit(function, *arguments).result()

    def map(self, function: Callable[[slice], Result], rows: int) -> list[Result]:
        """Return the results for each unit of rows, in order."""
        return list(self._pool.map(function, (slice(start, start + UNIT) for start in range(0, rows, UNIT))))


class Subset:
    """Some rows of `vectors`, spoken of by their place in `rows`: 0 to len(rows) - 1.

    Args:
        vectors: (n, width) float32 of unit norm; a memory map will do.
        rows: (m,) of them, in the caller's order.
        squares: (n,) of `squared_norms`; None: computed here.
    """

    def __init__(self, vectors: Vectors, rows: Indices, squares: npt.NDArray[np.float64] | None = None) -> None:
        self.vectors = vectors
        self.rows = rows
        self._squares = (squared_norms(vectors) if squares is None else squares)[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Indices | slice) -> Vectors:
        return np.ascontiguousarray(self.vectors[self.rows[places]])

    def cosines(self, left: Indices, right: Indices) -> npt.NDArray[np.float64]:
        """Return (pairs,) cosines in float64 and without BLAS: the same everywhere, and exactly 1 for copies."""
        dot = np.empty(len(left))
        for start in range(0, len(left), _CONFIRM):
            part = slice(start, start + _CONFIRM)
            dot[part] = _dot(self[left[part]], self[right[part]])
        return dot / np.sqrt(self._squares[left] * self._squares[right])

    def rescore(self, row: Indices, other: Indices, threshold: float) -> Pairs:
        """Return the candidate pairs that really are at the threshold or above, sorted."""
        pairs = Pairs(row, other, self.cosines(row, other))
        pairs = pairs.where(pairs.similarity >= threshold)
        order = np.lexsort((pairs.other, pairs.row))
        return Pairs(pairs.row[order], pairs.other[order], pairs.similarity[order])

    def nearest(self, queries: Indices) -> Indices:
        """Return the most similar other place of each queried place, by brute force."""
        best, nearest = np.full(len(queries), -np.inf), np.zeros(len(queries), np.int64)
        probes = self[queries]
        for base in range(0, len(self), _BASE):
            indexed = self[base : base + _BASE]
            for start in range(0, len(queries), _EXACT_QUERIES):
                block = slice(start, start + _EXACT_QUERIES)
                product = probes[block] @ indexed.T
                own = queries[block] - base
                inside = np.flatnonzero((own >= 0) & (own < product.shape[1]))
                product[inside, own[inside]] = -np.inf
                closer = product.max(axis=1) > best[block]
                nearest[block] = np.where(closer, product.argmax(axis=1) + base, nearest[block])
                best[block] = np.maximum(product.max(axis=1), best[block])
        return nearest


def squared_norms(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Return the squared length of each row, in float64."""
    parts = (vectors[start : start + _BASE] for start in range(0, len(vectors), _BASE))
    return np.concatenate([np.empty(0), *(_dot(part, part) for part in parts)])


def nearest(queries: Vectors, base: Vectors) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Return the row of `base` that is most similar to each query, and the cosine of the two.

    Args:
        queries: (n, width) float32 of unit norm.
        base: (m, width) float32 of unit norm, at least one.
    """
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(np.ascontiguousarray(base))
    closest, cosines = np.empty(len(queries), np.int64), np.empty(len(queries))
    for start in range(0, len(queries), _CONFIRM):
        part = slice(start, start + _CONFIRM)
        closest[part] = index.search(np.ascontiguousarray(queries[part]), 1)[1][:, 0]
        one, other = queries[part], base[closest[part]]
        cosines[part] = _dot(one, other) / np.sqrt(_dot(one, one) * _dot(other, other))
    return closest, cosines


def evenly_spaced(size: int, count: int) -> Indices:
    """Return at most `count` evenly spaced places of `size`, ascending and distinct."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).astype(np.int64))


def _dot(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    """Return row by row inner products of (pairs, width), summed in float64 in a fixed order."""
    return np.einsum("pd,pd->p", left, right, dtype=np.float64)
