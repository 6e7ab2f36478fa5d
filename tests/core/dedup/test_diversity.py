"""Diversity figures against cases whose value is known."""

import numpy as np
import pytest

from lightgen_core.dedup.config import DedupConfig
from lightgen_core.dedup.diversity import (
    cluster_entropy,
    diversity,
    k_centre_radius,
    near_duplicate_rate,
    vendi_score,
    within_prompt_distance,
)
from lightgen_core.dedup.search import Subset
from tests.factories.vectors import unit


def whole(vectors):
    return Subset(vectors, np.arange(len(vectors)))


def test_vendi_is_n_for_orthogonal_vectors_and_one_for_copies():
    assert vendi_score(np.eye(12, dtype=np.float32)) == pytest.approx(12)
    assert vendi_score(np.repeat(unit(np.ones((1, 5))), 9, axis=0)) == pytest.approx(1)


@pytest.mark.parametrize(("rows", "width"), [(12, 20), (20, 12)])
def test_vendi_is_the_definition_whichever_matrix_is_smaller(rows, width):
    vectors = unit(np.random.default_rng(0).normal(size=(rows, width)))
    share = np.clip(np.linalg.eigvalsh((vectors @ vectors.T).astype(np.float64) / rows), 1e-300, None)
    assert vendi_score(vectors) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


def test_cluster_entropy_is_one_for_even_clusters_else_less():
    rng = np.random.default_rng(1)
    centres = np.eye(4, 16)
    even = unit(centres[np.arange(400) % 4] + 0.02 * rng.normal(size=(400, 16)))
    lopsided = unit(centres[np.minimum(np.arange(400) // 130, 1)] + 0.02 * rng.normal(size=(400, 16)))
    assert cluster_entropy(whole(even), 4, seed=0) == pytest.approx(1, abs=1e-6)
    assert cluster_entropy(whole(lopsided), 2, seed=0) == pytest.approx(
        -(0.325 * np.log2(0.325) + 0.675 * np.log2(0.675))
    )
    assert cluster_entropy(whole(np.repeat(even[:1], 40, axis=0)), 4, seed=0) == 0.0


def test_k_centre_radius_is_zero_when_every_kind_has_a_centre():
    vectors = np.repeat(np.eye(6, dtype=np.float32), 5, axis=0)
    assert k_centre_radius(vectors, 6, first=3) == 0.0
    assert k_centre_radius(vectors, 5, first=3) == pytest.approx(np.sqrt(2))


def test_near_duplicate_rate_counts_rows_with_a_close_row():
    vectors = np.concatenate([np.eye(8), np.eye(8)[:2]]).astype(np.float32)
    assert near_duplicate_rate(whole(vectors), np.arange(10), 1.0) == 0.4
    assert near_duplicate_rate(whole(vectors), np.array([0, 3]), 1.0) == 0.5


def test_within_prompt_distance_averages_pairs_of_one_prompt():
    angle = np.deg2rad([0, 60, 180, 90, 90, 45])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    # Prompt a: pairs at 60, 180 and 120 degrees; prompt b: two copies; prompt c: one image, not counted.
    expected = (np.mean([1 - 0.5, 1 + 1, 1 + 0.5]) + 0) / 2
    assert within_prompt_distance(whole(vectors), list("aaabbc")) == pytest.approx(expected)
    assert within_prompt_distance(whole(vectors), list("abcdef")) is None


def test_all_metrics_at_once_are_seeded_and_explained():
    vectors = unit(np.random.default_rng(2).normal(size=(600, 24)))
    topics = [["shape", "colour"] if row % 2 else ["shape"] for row in range(600)]
    config = DedupConfig(diversity_sample=200, clusters=8, centres=10)
    one = diversity(whole(vectors), topics, [row // 3 for row in range(600)], seed=0, config=config)
    assert one == diversity(whole(vectors), topics, [row // 3 for row in range(600)], seed=0, config=config)
    assert (one.rows, one.sample, one.topics) == (600, 200, 2)
    assert one.topic_evenness == pytest.approx(-(np.log2(2 / 3) * 2 / 3 + np.log2(1 / 3) / 3))
    assert one.within_prompt_distance == pytest.approx(1, abs=0.05)
    assert one.metrics()[0].name == "Vendi score"
    assert len(one.metrics()) == 7
