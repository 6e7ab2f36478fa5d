"""Pairs of similar vectors, found with faiss and confirmed one by one.

faiss proposes and numpy decides: every candidate pair's cosine is recomputed in float64, so what is above a threshold
does not depend on the index, the thread count or the BLAS at hand. Memory is bounded by blocks of queries.
How many threads faiss uses is the caller's choice (`faiss.omp_set_num_threads`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

BLOCK = 4096
"""Rows whose neighbours are looked up at once."""

_RANGE_QUERIES = 64  # queries of one range search; a result can be as long as the index for each
_EXACT_QUERIES = 1024  # queries of one brute-force block
_CONFIRM = 4096  # pairs whose vectors are gathered at a time
_BASE = 16_384  # indexed rows that one block meets
# How far an inner product may be off its cosine: norms that are 1 to 0.1 %, and the index's rounding on top.
# Candidates this far below the threshold are still looked at.
_SLACK = {"Flat": 2.5e-3, "SQfp16": 5e-3, "SQ8": 2.5e-2}
_COARSEST = _SLACK["SQ8"]


class Pairs(NamedTuple):
    """Ordered pairs at or above a threshold, sorted by `row`, then `other`; both directions are present."""

    row: Indices
    other: Indices
    similarity: npt.NDArray[np.float64]

    def merged(self, others: "Pairs") -> "Pairs":
        """Return these and others in order."""
        both = Pairs(*(np.concatenate(columns) for columns in zip(self, others, strict=True)))
        order = np.lexsort((both.other, both.row))
        return Pairs(both.row[order], both.other[order], both.similarity[order])

    def where(self, keep: npt.NDArray[np.bool_]) -> "Pairs":
        """Those for which `keep` (pairs,) is true."""
        return Pairs(self.row[keep], self.other[keep], self.similarity[keep])


def index_factory(rows: int) -> str:
    """The faiss factory string for a number of rows: exact to 200,000, then inverted files, coarser as data grows."""
    if rows <= 200_000:
        return "Flat"
    if rows <= 1_000_000:
        return "IVF4096,Flat"
    if rows <= 5_000_000:
        return "IVF16384,Flat"
    if rows <= 50_000_000:
        return "IVF65536_HNSW32,SQfp16"
    return "IVF262144_HNSW32,SQ8"


class Subset:
    """Some rows of `vectors`, spoken of by their place in `rows`: 0 to len(rows) - 1.

    Args:
        vectors: (n, width) float32 of unit norm; a memory map will do.
        rows: (m,) which of them, in the caller's order.
    """

    def __init__(self, vectors: Vectors, rows: Indices) -> None:
        self.vectors = vectors
        self.rows = rows
        blocks = [self[start : start + _BASE] for start in range(0, len(rows), _BASE)]
        self._squares = np.concatenate([_dot(block, block) for block in blocks])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Indices | slice) -> Vectors:
        return np.ascontiguousarray(self.vectors[self.rows[places]])

    def cosines(self, left: Indices, right: Indices) -> npt.NDArray[np.float64]:
        """(pairs,) cosines in float64 and without BLAS: the same everywhere, and exactly 1 for copies."""
        dot = np.empty(len(left))
        for start in range(0, len(left), _CONFIRM):
            part = slice(start, start + _CONFIRM)
            dot[part] = _dot(self[left[part]], self[right[part]])
        return dot / np.sqrt(self._squares[left] * self._squares[right])

    def rescore(self, row: Indices, other: Indices, threshold: float) -> Pairs:
        """The candidate pairs of two different places that really are at the threshold or above, sorted."""
        distinct = row != other
        row, other = row[distinct], other[distinct]
        pairs = Pairs(row, other, self.cosines(row, other))
        pairs = pairs.where(pairs.similarity >= threshold)
        order = np.lexsort((pairs.other, pairs.row))
        return Pairs(pairs.row[order], pairs.other[order], pairs.similarity[order])

    def exact_pairs(self, queries: Indices, threshold: float) -> Pairs:
        """All pairs of the queried places by brute force, without faiss: the truth behind a certificate."""
        rows, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for block, base, product in self._products(queries):
            hit, other = np.nonzero(product >= threshold - _SLACK["Flat"])
            rows.append(queries[block][hit])
            others.append(other + base)
        return self.rescore(np.concatenate(rows), np.concatenate(others), threshold)

    def nearest(self, queries: Indices) -> Indices:
        """The most similar other place of each queried place, by brute force."""
        best, nearest = np.full(len(queries), -np.inf), np.zeros(len(queries), np.int64)
        for block, base, product in self._products(queries):
            own = queries[block] - base
            inside = np.flatnonzero((own >= 0) & (own < product.shape[1]))
            product[inside, own[inside]] = -np.inf
            closer = product.max(axis=1) > best[block]
            nearest[block] = np.where(closer, product.argmax(axis=1) + base, nearest[block])
            best[block] = np.maximum(product.max(axis=1), best[block])
        return nearest

    def _products(self, queries: Indices) -> Iterator[tuple[slice, int, Vectors]]:
        """Inner products, block by block: (block of the queries, first place, (queries, places) products)."""
        for start in range(0, len(queries), _EXACT_QUERIES):
            block = slice(start, start + _EXACT_QUERIES)
            probe = self[queries[block]]
            for base in range(0, len(self), _BASE):
                yield block, base, probe @ self[base : base + _BASE].T


class NeighbourSearch:
    """All pairs above a similarity in a subset, by k-NN and, where k is too few, a range search.

    Args:
        subset: what is searched, by itself.
        factory: faiss factory string (`index_factory` names one).
        neighbours: k of the k-NN search.
    """

    def __init__(self, subset: Subset, factory: str, neighbours: int) -> None:
        self.subset = subset
        self.neighbours = min(neighbours, len(subset) - 1)
        self.slack = _SLACK.get(factory.rsplit(",", 1)[-1], _COARSEST)
        self.index = _build(subset, factory)

    @property
    def probes(self) -> int | None:
        """Inverted lists looked into for a query; None for an exact index."""
        return self.index.nprobe if isinstance(self.index, faiss.IndexIVF) else None

    def tune_nprobe(self, sample: Indices, threshold: float, recall: float) -> None:
        """Double the probed lists until `recall` of the sample's true pairs is found; nothing to do when exact.

        Without a pair above the threshold in the sample, its nearest neighbours are what has to be found.
        """
        if not isinstance(self.index, faiss.IndexIVF):
            return
        truth = self.subset.exact_pairs(sample, threshold)
        if len(truth.row) == 0:
            truth = self.subset.rescore(sample, self.subset.nearest(sample), -1.0)
        keys = truth.row * len(self.subset) + truth.other
        probes = 1
        while True:
            self.index.nprobe = probes
            found = self._find(sample, float(truth.similarity.min()))
            hits = np.isin(keys, found.row * len(self.subset) + found.other).sum()
            if probes == self.index.nlist or hits >= recall * len(keys):
                return
            probes = min(2 * probes, self.index.nlist)

    def pairs(self, threshold: float) -> Iterator[Pairs]:
        """All pairs, in blocks of BLOCK rows, rows ascending."""
        for start in range(0, len(self.subset), BLOCK):
            yield self._find(np.arange(start, min(start + BLOCK, len(self.subset))), threshold)

    def _find(self, queries: Indices, threshold: float) -> Pairs:
        floor = threshold - self.slack
        row, other, crowded = self._nearest_above(queries, floor)
        more_row, more_other = self._range_above(crowded, floor)
        return self.subset.rescore(np.concatenate([row, more_row]), np.concatenate([other, more_other]), threshold)

    def _nearest_above(self, queries: Indices, floor: float) -> tuple[Indices, Indices, Indices]:
        """Candidates by k-NN, and the queries whose k neighbours all lie above the floor: these may have more."""
        # One more than k: a query finds itself.
        similarity, other = self.index.search(self.subset[queries], self.neighbours + 1)
        above = (similarity >= floor) & (other >= 0)
        full = above.all(axis=1) & (self.neighbours + 1 < len(self.subset))
        above[full] = False
        return np.repeat(queries, above.sum(axis=1)), other[above], queries[full]

    def _range_above(self, queries: Indices, floor: float) -> tuple[Indices, Indices]:
        rows, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(queries), _RANGE_QUERIES):
            block = queries[start : start + _RANGE_QUERIES]
            limits, _, other = self.index.range_search(self.subset[block], floor)
            rows.append(np.repeat(block, (limits[1:] - limits[:-1]).astype(np.int64)))
            others.append(other)
        return np.concatenate(rows), np.concatenate(others)


def nearest(queries: Vectors, base: Vectors) -> tuple[Indices, npt.NDArray[np.float64]]:
    """The row of `base` that is most similar to each query, and the cosine of the two.

    Args:
        queries: (n, width) float32 of unit norm.
        base: (m, width) float32 of unit norm, at least one.
    """
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(np.ascontiguousarray(base))
    closest = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        closest[part] = index.search(np.ascontiguousarray(queries[part]), 1)[1][:, 0]
    cosines = np.empty(len(queries))
    for start in range(0, len(queries), _CONFIRM):
        part = slice(start, start + _CONFIRM)
        one, other = queries[part], base[closest[part]]
        cosines[part] = _dot(one, other) / np.sqrt(_dot(one, one) * _dot(other, other))
    return closest, cosines


def _build(subset: Subset, factory: str) -> faiss.Index:
    try:
        index = faiss.index_factory(subset.vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"faiss knows no index {factory!r}; expected a factory string like 'IVF4096,Flat'") from error
    if isinstance(index, faiss.IndexIVF):
        if index.nlist > len(subset):
            raise ValueError(
                f"index {factory!r} has {index.nlist} lists for {len(subset)} rows; choose fewer or leave it unset"
            )
        # faiss trains on at most 256 points a list; evenly spaced rows keep the choice free of chance.
        index.cp.min_points_per_centroid = 1
        index.train(subset[evenly_spaced(len(subset), 256 * index.nlist)])
    for start in range(0, len(subset), _BASE):
        index.add(subset[start : start + _BASE])
    return index


def evenly_spaced(size: int, count: int) -> Indices:
    """At most `count` evenly spaced places of `size`, ascending and distinct."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).astype(np.int64))


def _dot(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    """Row by row inner products of (pairs, width), summed in float64 in a fixed order."""
    return np.einsum("pd,pd->p", left, right, dtype=np.float64)
