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

Rows = npt.NDArray[np.int64]

_QUERIES = 4096  # queries of one k-NN call
_RANGE_QUERIES = 64  # queries of one range search; a result can be as long as the index for each
_CONFIRM = 4096  # pairs whose vectors are gathered at a time
_BASE = 16_384  # indexed rows that one brute-force block meets
# How far an index's similarity may be off; candidates this far below the threshold are still looked at.
_SLACK = {"Flat": 1e-4, "SQfp16": 2e-3, "SQ8": 2e-2}


class Pairs(NamedTuple):
    """Ordered pairs at or above a threshold, sorted by `row`, then `other`; both directions are present."""

    row: Rows
    other: Rows
    similarity: npt.NDArray[np.float64]


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


class NeighbourSearch:
    """All pairs above a similarity among `rows` of `vectors`, by k-NN and, where k is too few, a range search.

    Rows are spoken of by their place in `rows` (0 to len(rows) - 1), which also is the order of indexing.

    Args:
        vectors: (n, width) float32 of unit norm; a memory map will do.
        rows: (m,) which of them to search, in the caller's order.
        factory: faiss factory string (`index_factory` names one).
        neighbours: k of the k-NN search.
    """

    def __init__(self, vectors: npt.NDArray[np.float32], rows: Rows, factory: str, neighbours: int) -> None:
        self.vectors = vectors
        self.rows = rows
        self.neighbours = min(neighbours, len(rows) - 1)
        self.slack = _SLACK.get(factory.rsplit(",", 1)[-1], _SLACK["SQ8"])
        self.index = _build(vectors, rows, factory)

    @property
    def probes(self) -> int | None:
        """Inverted lists looked into for a query; None for an exact index."""
        return self.index.nprobe if isinstance(self.index, faiss.IndexIVF) else None

    def tune(self, sample: Rows, threshold: float, recall: float) -> None:
        """Sweep the probed lists upwards until `recall` of the sample's true pairs is found (no-op when exact).

        Without a pair above the threshold in the sample, its nearest neighbours are what has to be found.
        """
        if not isinstance(self.index, faiss.IndexIVF):
            return
        truth = exact_pairs(self.vectors, self.rows, sample, threshold)
        if len(truth.row) == 0:
            truth = _nearest(self.vectors, self.rows, sample)
        probes = 1
        while True:
            self.index.nprobe = probes
            found = self._find(sample, float(truth.similarity.min()))
            if probes == self.index.nlist or _shared(found, truth, len(self.rows)) >= recall * len(truth.row):
                return
            probes = min(2 * probes, self.index.nlist)

    def pairs(self, threshold: float) -> Iterator[tuple[range, Pairs]]:
        """Yield (places, their pairs) block by block, places ascending."""
        for start in range(0, len(self.rows), _QUERIES):
            block = range(start, min(start + _QUERIES, len(self.rows)))
            yield block, self._find(np.arange(block.start, block.stop), threshold)

    def _find(self, queries: Rows, threshold: float) -> Pairs:
        floor = threshold - self.slack
        row, other, crowded = self._nearest_above(queries, floor)
        more_row, more_other = self._range_above(crowded, floor)
        return _confirm(
            self.vectors, self.rows, np.concatenate([row, more_row]), np.concatenate([other, more_other]), threshold
        )

    def _nearest_above(self, queries: Rows, floor: float) -> tuple[Rows, Rows, Rows]:
        """Candidates by k-NN, and the queries whose k neighbours all lie above the floor: these may have more."""
        # One more than k: a query finds itself.
        similarity, other = self.index.search(self._take(queries), self.neighbours + 1)
        above = (similarity >= floor) & (other >= 0)
        full = above.all(axis=1) & (self.neighbours + 1 < len(self.rows))
        above[full] = False
        return np.repeat(queries, above.sum(axis=1)), other[above], queries[full]

    def _range_above(self, queries: Rows, floor: float) -> tuple[Rows, Rows]:
        rows, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(queries), _RANGE_QUERIES):
            block = queries[start : start + _RANGE_QUERIES]
            limits, _, other = self.index.range_search(self._take(block), floor)
            rows.append(np.repeat(block, np.diff(limits.astype(np.int64))))
            others.append(other)
        return np.concatenate(rows), np.concatenate(others)

    def _take(self, places: Rows) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(self.vectors[self.rows[places]])


def exact_pairs(vectors: npt.NDArray[np.float32], rows: Rows, queries: Rows, threshold: float) -> Pairs:
    """Brute force without faiss: all pairs of the queried places, for certificates and tests."""
    found_row, found_other = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024]
        probe = vectors[rows[block]]
        for base in range(0, len(rows), _BASE):
            hit, other = np.nonzero(probe @ vectors[rows[base : base + _BASE]].T >= threshold - _SLACK["Flat"])
            found_row.append(block[hit])
            found_other.append(other + base)
    return _confirm(vectors, rows, np.concatenate(found_row), np.concatenate(found_other), threshold)


def _build(vectors: npt.NDArray[np.float32], rows: Rows, factory: str) -> faiss.Index:
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"faiss does not know the index {factory!r}; expected a factory string such as 'IVF4096,Flat'") from error
    if isinstance(index, faiss.IndexIVF):
        if index.nlist > len(rows):
            raise ValueError(f"index {factory!r} has {index.nlist} lists for {len(rows)} rows; choose fewer lists or leave it unset")
        # faiss trains on at most 256 points a list; evenly spaced rows keep the choice free of chance.
        wanted = min(len(rows), 256 * index.nlist)
        index.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(vectors[rows[np.linspace(0, len(rows) - 1, wanted).astype(np.int64)]]))
    for start in range(0, len(rows), _BASE):
        index.add(np.ascontiguousarray(vectors[rows[start : start + _BASE]]))
    return index


def _confirm(vectors: npt.NDArray[np.float32], rows: Rows, row: Rows, other: Rows, threshold: float) -> Pairs:
    """Recompute candidates in float64, drop a row's pair with itself and what is below, sort."""
    distinct = row != other
    row, other = row[distinct], other[distinct]
    similarity = np.empty(len(row))
    for start in range(0, len(row), _CONFIRM):
        part = slice(start, start + _CONFIRM)
        left, right = vectors[rows[row[part]]], vectors[rows[other[part]]]
        similarity[part] = np.einsum("pd,pd->p", left, right, dtype=np.float64)
    above = similarity >= threshold
    row, other, similarity = row[above], other[above], similarity[above]
    order = np.lexsort((other, row))
    return Pairs(row[order], other[order], similarity[order])


def _nearest(vectors: npt.NDArray[np.float32], rows: Rows, queries: Rows) -> Pairs:
    """Each query's nearest other row, by brute force."""
    best = np.full(len(queries), -np.inf)
    which = np.zeros(len(queries), np.int64)
    for base in range(0, len(rows), _BASE):
        similarity = vectors[rows[queries]] @ vectors[rows[base : base + _BASE]].T
        inside = (queries >= base) & (queries < base + similarity.shape[1])
        similarity[np.nonzero(inside)[0], queries[inside] - base] = -np.inf
        top = similarity.argmax(axis=1)
        value = similarity[np.arange(len(queries)), top]
        which = np.where(value > best, top + base, which)
        best = np.maximum(best, value)
    return _confirm(vectors, rows, queries, which, -1.0)


def _shared(found: Pairs, truth: Pairs, size: int) -> int:
    """How many of the true pairs were found."""
    return int(np.isin(truth.row * size + truth.other, found.row * size + found.other).sum())
