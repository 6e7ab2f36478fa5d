"""An index of vectors that grows row by row, searched for the vectors at a cosine or above."""

import math
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from lightgen_core.dedup.search import Indices, Pairs, SearchThreads, Subset, Vectors, evenly_spaced

WIDE = 512
"""Most candidates looked at for one row."""

_EXACT = 20_000  # rows up to which an exact search is as fast
_COMPONENTS = 128
_TUNING_QUERIES = 4096
_POINTS_PER_LIST = 40
_BASE = 4096  # rows of a block of products
# How far a squared distance may be off: norms that are 1 to 0.1 %, and the index's rounding on top.
_SLACK = {"Flat": 5e-3, "SQfp16": 1e-2, "SQ8": 5e-2}


@dataclass(frozen=True)
class SearchOptions:
    """Target and effort of a search.

    Attributes:
        threshold: cosine from which vectors are near.
        k: neighbours looked up at first; rows with more are looked up with WIDE.
        recall: inverted files: share of pairs exactly at the threshold that the probed lists hold.
        factory: faiss factory string; None: `index_factory`.
    """

    threshold: float
    k: int = 64
    recall: float = 0.998
    factory: str | None = None


def index_factory(rows: int) -> str:
    """Return the faiss factory string for a number of rows: exact to 20,000, then inverted files."""
    if rows <= _EXACT:
        return "Flat"
    lists = 2 ** round(math.log2(5 * math.sqrt(rows)))
    return f"IVF{lists}_HNSW32,Flat" if lists > 16_384 else f"IVF{lists},Flat"


class NeighbourIndex:
    """The vectors added so far, and a search for those near others.

    Large sets are indexed by their leading principal components and, as one more coordinate, by the length of what
    these leave out. No pair is farther apart there than in truth (the projection is orthogonal, and lengths obey the
    triangle inequality): candidates come up that are not near, but nothing near is lost but by lists not probed.

    Args:
        subset: all rows that will be added, to train on.
        saved: file with what training gave; written if it is not there.
    """

    def __init__(
        self, subset: Subset, options: SearchOptions, threads: SearchThreads, saved: Path | None = None
    ) -> None:
        self.factory = options.factory or index_factory(len(subset))
        self._k, self._threads = options.k, threads
        slack = _SLACK.get(self.factory.rsplit(",", 1)[-1], _SLACK["SQ8"])
        self._floor = 2 - 2 * options.threshold + slack
        self._ids = np.empty(0, np.int64)
        width = subset.vectors.shape[1]
        large = len(subset) > _EXACT and width > _COMPONENTS + 1
        self._projection = threads.run(_train_projection, subset) if large else None
        if saved is not None and saved.exists():
            self.index = faiss.read_index(str(saved))
        else:
            self.index = threads.run(self._train, subset)
            if isinstance(self.index, faiss.IndexIVF):
                self.index.nprobe = threads.run(self._tuned_nprobe, self.index, subset, options)
            if saved is not None:
                part = saved.with_suffix(".part")
                faiss.write_index(self.index, str(part))
                part.replace(saved)

    @property
    def probes(self) -> int | None:
        """Inverted lists looked into for a query; None for an exact index."""
        return self.index.nprobe if isinstance(self.index, faiss.IndexIVF) else None

    def add(self, vectors: Vectors, ids: Indices) -> None:
        """Add vectors by the ids that a search returns them by."""
        self._threads.run(lambda: self.index.add(self._project(vectors)))
        self._ids = np.concatenate([self._ids, ids])

    def search(self, vectors: Vectors) -> tuple[Indices, Indices, npt.NDArray[np.bool_]]:
        """Return candidates as pairs of (row of `vectors`, id), and the rows that may have more than these."""
        if not len(self._ids):
            return np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(len(vectors), bool)
        units = self._threads.map(lambda unit: self._search_unit(vectors[unit], unit.start), len(vectors))
        row, place, full = (np.concatenate(column) for column in zip(*units, strict=True))
        crowded = np.zeros(len(vectors), bool)
        crowded[full] = True
        return row, self._ids[place], crowded

    def near_within(self, vectors: Vectors) -> npt.NDArray[np.bool_]:
        """Return which of some vectors may be near which, (n, n): nothing near is missing."""
        points = self._threads.run(self._project, vectors)
        return self._may_be_near(points, points)

    def exact_pairs(self, subset: Subset, queries: Indices, base: Indices, threshold: float) -> Pairs:
        """Return the pairs of queried places with smaller places of `base`, both ascending, by comparing all.

        This is what a search is measured by. Memory holds every candidate.
        """
        points = self._threads.run(self._project, subset[queries])
        rows, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for first in range(0, len(base), _BASE):
            places = base[first : first + _BASE]
            indexed = self._threads.run(self._project, subset[places])
            for start in range(int(np.searchsorted(queries, places[0])), len(queries), _BASE):
                part = slice(start, start + _BASE)
                row, other = np.nonzero(self._may_be_near(points[part], indexed))
                row, other = queries[part][row], places[other]
                rows.append(row[other < row])
                others.append(other[other < row])
        return subset.rescore(np.concatenate(rows), np.concatenate(others), threshold)

    def _may_be_near(self, one: Vectors, other: Vectors) -> npt.NDArray[np.bool_]:
        # One product gives minus half the squared distance: what has to be added are two more coordinates of each.
        left, right = (np.einsum("pd,pd->p", points, points)[:, None] / -2 for points in (one, other))
        left = np.concatenate([one, left, np.ones_like(left)], axis=1)
        right = np.concatenate([other, np.ones_like(right), right], axis=1)
        return left @ right.T >= -self._floor / 2

    def _search_unit(self, vectors: Vectors, start: int) -> tuple[Indices, Indices, Indices]:
        """Return rows, from `start` on, and places in the index, and the rows that WIDE candidates do not exhaust."""
        points = self._project(vectors)
        row, place, full = self._nearest(points, self._k)
        if not len(full):
            return row + start, place, full
        again, more, exhausted = self._nearest(points[full], WIDE)
        rest = ~np.isin(row, full)
        rows, places = np.concatenate([row[rest], full[again]]), np.concatenate([place[rest], more])
        return rows + start, places, full[exhausted] + start

    def _nearest(self, points: Vectors, k: int) -> tuple[Indices, Indices, Indices]:
        """Return pairs of (row of `points`, place) within the floor, and the rows with more than k of them."""
        k = min(k, len(self._ids))
        distance, place = self.index.search(points, k)
        near = (distance <= self._floor) & (place >= 0)
        full = np.flatnonzero(near.all(axis=1)) if k < len(self._ids) else np.empty(0, np.int64)
        row, column = np.nonzero(near)
        return row, place[row, column], full

    def _project(self, vectors: Vectors) -> Vectors:
        """Return (n, _COMPONENTS + 1) leading components and the length of the rest."""
        if self._projection is None:
            return vectors
        leading = self._projection.apply(vectors)
        centred = vectors - faiss.vector_to_array(self._projection.mean)
        rest = np.einsum("pd,pd->p", centred, centred) - np.einsum("pd,pd->p", leading, leading)
        return np.concatenate([leading, np.sqrt(np.maximum(rest, 0))[:, None]], axis=1)

    def _train(self, subset: Subset) -> faiss.Index:
        width = subset.vectors.shape[1] if self._projection is None else _COMPONENTS + 1
        try:
            index = faiss.index_factory(width, self.factory, faiss.METRIC_L2)
        except RuntimeError as error:
            raise ValueError(
                f"faiss knows no index {self.factory!r}; expected a factory string like 'IVF4096,Flat'"
            ) from error
        if isinstance(index, faiss.IndexIVF):
            if index.nlist > len(subset):
                raise ValueError(
                    f"index {self.factory!r} has {index.nlist} lists for {len(subset)} rows; choose fewer or leave it "
                    "unset"
                )
            # Evenly spaced rows, and faiss' own fixed seed, keep the lists free of chance.
            index.cp.min_points_per_centroid = 1
            index.cp.max_points_per_centroid = _POINTS_PER_LIST
        index.train(self._project(subset[evenly_spaced(len(subset), _POINTS_PER_LIST * _lists(index))]))
        return index

    def _tuned_nprobe(self, index: faiss.IndexIVF, subset: Subset, options: SearchOptions) -> int:
        """Return the lists to probe, so that they hold the required share of pairs at the threshold.

        Such pairs are made: a row, moved towards another one until its cosine is the threshold. True pairs are
        nearer, or as near, so more of them are found.
        """
        places = evenly_spaced(len(subset), _TUNING_QUERIES)
        rows = subset[places]
        direction = np.roll(rows, len(rows) // 2, axis=0)
        direction -= np.einsum("pd,pd->p", direction, rows)[:, None] * rows
        length = np.sqrt(np.einsum("pd,pd->p", direction, direction))[:, None]
        cosine = min(options.threshold, 1.0)
        moved = cosine * rows + math.sqrt(1 - cosine**2) * direction / np.maximum(length, 1e-6)
        moved /= np.sqrt(np.einsum("pd,pd->p", moved, moved))[:, None]
        home = index.quantizer.search(self._project(moved.astype(np.float32)), 1)[1]
        order = index.quantizer.search(self._project(rows), index.nlist)[1]
        probes = np.where((order == home).any(axis=1), (order == home).argmax(axis=1) + 1, index.nlist)
        return int(np.quantile(probes, options.recall, method="higher"))


def _lists(index: faiss.Index) -> int:
    return index.nlist if isinstance(index, faiss.IndexIVF) else 1


def _train_projection(subset: Subset) -> faiss.PCAMatrix:
    projection = faiss.PCAMatrix(subset.vectors.shape[1], _COMPONENTS)
    projection.train(subset[evenly_spaced(len(subset), _EXACT)])
    return projection
