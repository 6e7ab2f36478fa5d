"""The growing index: nothing near is lost by projecting, and crowds are bounded."""

import numpy as np
import pytest

from lightgen_core.dedup import neighbour_index
from lightgen_core.dedup.neighbour_index import NeighbourIndex, SearchOptions
from lightgen_core.dedup.search import SearchThreads, Subset
from tests.factories.vectors import unit

ROWS, WIDTH = 1500, 200


@pytest.fixture
def clustered(monkeypatch):
    """Vectors in 30 clusters, of which the index sees 16 components, and how many it may take for near."""
    monkeypatch.setattr(neighbour_index, "_EXACT", 500)
    monkeypatch.setattr(neighbour_index, "_COMPONENTS", 16)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, WIDTH))
    vectors = unit(centres[rng.integers(30, size=ROWS)] + 0.25 * rng.normal(size=(ROWS, WIDTH)))
    return Subset(vectors, rng.permutation(ROWS))


def index_of(subset, **options):
    index = NeighbourIndex(subset, SearchOptions(0.94, **options), SearchThreads(2))
    index.add(subset[:], np.arange(len(subset)))
    return index


def pairs_by_brute_force(subset):
    vectors = subset[:].astype(np.float64)
    cosine = vectors @ vectors.T
    return set(zip(*(each.tolist() for each in np.nonzero(np.tril(cosine >= 0.94, -1))), strict=True))


def test_projected_vectors_find_every_near_pair(clustered):
    """Also those that no list of all rows would show to be near: candidates are more than pairs."""
    truth = pairs_by_brute_force(clustered)
    index = index_of(clustered, factory="Flat")
    row, other, crowded = index.search(clustered[:])
    earlier = other < row
    found = clustered.rescore(row[earlier], other[earlier], 0.94)
    assert set(zip(found.row.tolist(), found.other.tolist(), strict=True)) == truth
    assert (len(truth) > 10_000, earlier.sum() > len(truth), crowded.any()) == (True, True, False)


def test_projecting_keeps_lengths_and_adds_no_distance(clustered):
    index, vectors = index_of(clustered), clustered[:]
    points = index._project(vectors).astype(np.float64)
    mean = clustered[np.arange(ROWS)].mean(axis=0)
    assert np.allclose(np.linalg.norm(points, axis=1), np.linalg.norm(vectors - mean, axis=1), atol=0.05)
    near, far = (((each[:, None, :] - each[None, :200]) ** 2).sum(axis=2) for each in (points[:200], vectors[:200]))
    assert ((near - far).max() < 1e-5, near.shape, points.shape[1]) == (True, (200, 200), 17)


def test_comparing_all_is_what_brute_force_gives(clustered):
    queries, base = np.arange(0, ROWS, 3), np.arange(0, ROWS, 2)
    found = index_of(clustered).exact_pairs(clustered, queries, base, 0.94)
    truth = {(row, other) for row, other in pairs_by_brute_force(clustered) if row % 3 == 0 and other % 2 == 0}
    assert set(zip(found.row.tolist(), found.other.tolist(), strict=True)) == truth


def test_vectors_of_a_block_miss_no_near_pair(clustered):
    near = index_of(clustered).near_within(clustered[:])
    assert all(near[pair] for pair in pairs_by_brute_force(clustered))


def test_rows_with_too_many_candidates_are_named(clustered, monkeypatch):
    """The nearest are found; a row with fewer is complete."""
    monkeypatch.setattr(neighbour_index, "WIDE", 20)
    alone = unit(np.random.default_rng(1).normal(size=(1, WIDTH)))
    subset = Subset(np.concatenate([clustered.vectors, alone]), np.arange(ROWS + 1))
    row, _, crowded = index_of(subset, factory="Flat", k=8).search(subset[:])
    assert np.bincount(row).tolist() == [20] * ROWS + [1]
    assert (crowded[:ROWS].all(), crowded[ROWS]) == (True, False)


def test_probes_hold_the_asked_share_of_pairs_at_the_threshold(clustered):
    some, most = (index_of(clustered, factory="IVF64,Flat", recall=recall).probes for recall in (0.5, 0.999))
    assert 1 <= some < most <= 64
