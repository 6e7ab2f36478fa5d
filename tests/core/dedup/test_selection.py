"""The subsets that `dedup.select` leaves, against choices that are known."""

import numpy as np
import pytest

from lightgen_core.dedup.config import SelectionConfig
from lightgen_core.dedup.search import Subset
from lightgen_core.dedup.selection import select, take_in_turn
from tests.factories.vectors import unit

METHODS = ("random", "balanced", "k_centre", "score")


def chosen(vectors, config, ids=None, scores=None, clusters=8, seed=0):
    """Return the selected ids."""
    ids = np.arange(len(vectors)) if ids is None else ids
    scores = np.zeros(len(vectors)) if scores is None else scores
    return set(ids[select(Subset(vectors, np.arange(len(vectors))), ids, scores, config, clusters, seed)].tolist())


@pytest.fixture
def lopsided():
    """300 vectors around one centre, then 10 around each of three others, ids in order."""
    rng = np.random.default_rng(0)
    centres = np.eye(4, 16)[np.repeat([0, 1, 2, 3], [300, 10, 10, 10])]
    return unit(centres + 0.02 * rng.normal(size=centres.shape))


@pytest.mark.parametrize("method", METHODS)
def test_a_subset_has_the_size_that_was_asked_for(lopsided, method):
    assert len(chosen(lopsided, SelectionConfig(count=24, method=method))) == 24
    assert len(chosen(lopsided, SelectionConfig(count=1, method=method))) == 1
    assert len(chosen(lopsided, SelectionConfig(count=1000, method=method))) == len(lopsided)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_does_not_change_the_subset(lopsided, method):
    rng, ids = np.random.default_rng(3), np.arange(len(lopsided)) * 7 + 5
    scores, order = rng.integers(0, 9, len(lopsided)), rng.permutation(len(lopsided))
    config = SelectionConfig(count=40, method=method)
    assert chosen(lopsided, config, ids, scores) == chosen(lopsided[order], config, ids[order], scores[order])


def test_balanced_takes_more_of_the_rare_than_their_share(lopsided):
    config = SelectionConfig(count=40, method="balanced")
    rare = [len([row for row in chosen(lopsided, config, clusters=32, seed=seed) if row >= 300]) for seed in range(6)]
    assert np.mean(rare) > 2 * 40 * 30 / 330, rare


def test_clusters_in_turn_give_the_same_number_while_they_last():
    cluster = np.repeat([0, 1, 2], [100, 60, 4])
    rows = take_in_turn(cluster, 30, np.random.default_rng(0))
    assert np.bincount(cluster[rows]).tolist() == [13, 13, 4]
    assert len(set(rows.tolist())) == 30


def test_k_centre_reaches_every_centre_before_a_second_of_one(lopsided):
    subset = chosen(lopsided, SelectionConfig(count=4, method="k_centre"))
    assert {min(max(0, (row - 290) // 10), 3) for row in subset} == {0, 1, 2, 3}


def test_k_centre_takes_copies_last():
    vectors = unit(np.eye(6, 8)[[0, 0, 0, 1, 2, 3]])
    for seed in range(4):
        subset = chosen(vectors, SelectionConfig(count=4, method="k_centre"), seed=seed)
        assert {3, 4, 5} <= subset
        assert len(chosen(vectors, SelectionConfig(count=5, method="k_centre"), seed=seed)) == 5


def test_score_takes_the_highest_and_of_equals_the_smaller_id(lopsided):
    scores = np.zeros(len(lopsided))
    scores[[7, 320]] = 1
    assert chosen(lopsided, SelectionConfig(count=4, method="score"), scores=scores) == {7, 320, 0, 1}


def test_random_depends_on_the_seed_alone(lopsided):
    config = SelectionConfig(count=100, method="random")
    assert chosen(lopsided, config, seed=1) == chosen(unit(lopsided[::-1].copy()), config, seed=1)
    assert chosen(lopsided, config, seed=1) != chosen(lopsided, config, seed=2)
