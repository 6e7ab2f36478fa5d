"""Connected components of a stream of links."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightgen_core.dedup.search import Indices

_LINKS = 4_000_000  # links kept before they are folded into component labels


class Components:
    """Connected components, in memory bounded by the places, not the links."""

    def __init__(self, size: int) -> None:
        self._best = np.arange(size)
        self._links: list[tuple[Indices, Indices]] = []

    def link(self, row: Indices, other: Indices) -> None:
        """Link pairs of places."""
        self._links.append((row, other))
        if sum(len(row) for row, _ in self._links) > _LINKS:
            self.best()

    def best(self) -> Indices:
        """Return, for each place, the smallest place of its component."""
        size = len(self._best)
        row = np.concatenate([np.arange(size), *(row for row, _ in self._links)])
        other = np.concatenate([self._best, *(other for _, other in self._links)])
        graph = coo_array((np.ones(len(row), bool), (row, other)), (size, size))
        _, label = connected_components(graph, directed=False)
        _, first = np.unique(label, return_index=True)
        self._best, self._links = first[label], []
        return self._best
