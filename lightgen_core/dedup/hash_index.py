"""An index of perceptual hashes that grows row by row; the search is exact.

Of a hash's four bands of 16 bits, one differs little from that of a hash nearby: if `bits` bits differ, they cannot
exceed each band's share. faiss' inverted lists, one for each value of a band, are probed at all values within that
share (multi-index hashing: Norouzi, Punjani & Fleet 2012).
"""

from itertools import combinations

import faiss
import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, UInt8

from lightgen_core.dedup.copy_features import HASH_BYTES, VIEWS
from lightgen_core.dedup.search import Indices, SearchThreads

NEAREST = 64
"""Most rows looked at for one row."""

_BANDS, _BAND_BITS = 4, 16
_LONG = 20_000  # hashes in the lists of one query from which only the nearest of them are collected

Codes = UInt8[np.ndarray, "n bytes"]


class HashIndex:
    """First views of images, searched by all views of others.

    Args:
        bits: of 64, that hashes nearby may differ in; 11 at most.
    """

    def __init__(self, bits: int, threads: SearchThreads) -> None:
        self._bits, self._threads = bits, threads
        self._ids = np.empty(0, np.int64)
        probes = {band: _values_within(bits, band) for band in range(_BANDS)}
        self._probes = {band: values for band, values in probes.items() if len(values)}
        self._bands = {band: _inverted_lists(len(values)) for band, values in self._probes.items()}
        self._sizes = {band: np.zeros(1 << _BAND_BITS, np.int64) for band in self._bands}

    def add(self, hashes: UInt8[np.ndarray, "n views bytes"], ids: Indices) -> None:
        """Add images by the ids that a search returns them by."""
        first = np.ascontiguousarray(hashes[:, 0])
        places = np.arange(len(self._ids), len(self._ids) + len(ids))
        values = np.ascontiguousarray(_band_values(first).T)
        for band, index in self._bands.items():
            self._sizes[band] += np.bincount(values[band], minlength=1 << _BAND_BITS)
            pointers = [faiss.swig_ptr(each) for each in (first, places, values[band])]
            index.add_core(len(first), *pointers)  # type: ignore[attr-defined] # add with lists given
        self._ids = np.concatenate([self._ids, ids])

    def search(self, hashes: UInt8[np.ndarray, "n views bytes"]) -> tuple[Indices, Indices, npt.NDArray[np.bool_]]:
        """Return pairs of (row of `hashes`, id) nearby, the NEAREST of each row, and the rows that may have more."""
        crowded = np.zeros(len(hashes), bool)
        if not len(self._ids):
            return np.empty(0, np.int64), np.empty(0, np.int64), crowded
        units = self._threads.map(lambda unit: self._search_unit(hashes[unit], unit.start), len(hashes))
        row, place, full = (np.concatenate(column) for column in zip(*units, strict=True))
        crowded[full] = True
        return row, self._ids[place], crowded

    def near_within(self, hashes: UInt8[np.ndarray, "n views bytes"]) -> Bool[np.ndarray, "n n"]:
        """Return of which images a view is nearby the other's first view, either way round."""
        words = hashes.reshape(len(hashes), -1).view(np.uint64)
        near = np.zeros((len(hashes), len(hashes)), bool)
        for view in range(VIEWS):
            for start in range(0, len(hashes), 64):  # rows whose distances fit into the cache
                part = slice(start, start + 64)
                near[part] |= np.bitwise_count(words[part, view, None] ^ words[:, 0]) <= self._bits
        return near | near.T

    def _search_unit(self, hashes: UInt8[np.ndarray, "n views bytes"], start: int) -> tuple[Indices, Indices, Indices]:
        found = [np.empty((3, 0), np.int64)]
        full = np.zeros(len(hashes), bool)
        for view in range(VIEWS):
            queries = np.ascontiguousarray(hashes[:, view])
            for band in self._bands:
                lists = _band_values(queries)[:, band, None] ^ self._probes[band]
                crowd = self._sizes[band][lists].sum(axis=1) > _LONG
                found.append(self._within(band, queries, lists, np.flatnonzero(~crowd)))
                nearest = self._nearest(band, queries, lists, np.flatnonzero(crowd))
                full |= np.bincount(nearest[0], minlength=len(hashes)) >= NEAREST
                found.append(nearest)
        row, place, cut = _nearest_of_each(np.concatenate(found, axis=1))
        full[cut] = True
        return row + start, place, np.flatnonzero(full) + start

    def _within(self, band: int, queries: Codes, lists: Indices, rows: Indices) -> Indices:
        """Return (row, distance, place) of all that some queries find in a band's lists."""
        probes = np.ascontiguousarray(lists[rows])
        limits, distance, place = self._bands[band].range_search_preassigned(
            queries[rows], self._bits + 1, probes, np.zeros(probes.shape, np.int32)
        )  # faiss: nearer than the radius
        return np.stack(
            [np.repeat(rows, (limits[1:] - limits[:-1]).astype(np.int64)), distance.astype(np.int64), place]
        )

    def _nearest(self, band: int, queries: Codes, lists: Indices, rows: Indices) -> Indices:
        """Return (row, distance, place) of the NEAREST that some queries find in a band's lists."""
        probes = np.ascontiguousarray(lists[rows])
        distance, place = self._bands[band].search_preassigned(
            queries[rows], NEAREST, probes, np.zeros(probes.shape, np.int32)
        )
        row, column = np.nonzero((place >= 0) & (distance <= self._bits))
        return np.stack([rows[row], distance[row, column].astype(np.int64), place[row, column]])


def _nearest_of_each(found: npt.NDArray[np.int64]) -> tuple[Indices, Indices, Indices]:
    """Return distinct (row, place) of (row, distance, place), NEAREST of each row, and the rows that had more."""
    row, distance, place = found[:, np.lexsort((found[1], found[2], found[0]))]
    first = np.ones(len(row), bool)
    first[1:] = (row[1:] != row[:-1]) | (place[1:] != place[:-1])
    row, distance, place = row[first], distance[first], place[first]
    order = np.lexsort((place, distance, row))
    row, place = row[order], place[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    return row[rank < NEAREST], place[rank < NEAREST], np.unique(row[rank >= NEAREST])


def _inverted_lists(probes: int) -> faiss.IndexBinaryIVF:
    width = 8 * HASH_BYTES
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(width), width, 1 << _BAND_BITS)
    index.is_trained = True  # its lists are the values of a band
    index.nprobe = probes
    return index


def _band_values(hashes: UInt8[np.ndarray, "n bytes"]) -> npt.NDArray[np.int64]:
    """Return (n, _BANDS) values of each hash's bands."""
    return hashes.view(np.uint16).astype(np.int64)


def _values_within(bits: int, band: int) -> npt.NDArray[np.int64]:
    """Return what a band differs by from one within its share: the shares of all bands are `bits` + 1 - _BANDS."""
    share = (bits + 1) // _BANDS - 1 + (band < (bits + 1) % _BANDS)
    flips = (chosen for count in range(share + 1) for chosen in combinations(range(_BAND_BITS), count))
    return np.array([sum(1 << bit for bit in chosen) for chosen in flips], np.int64)
