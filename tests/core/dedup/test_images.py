"""Deduplication: what is a copy, who survives, and how complete the search is."""

import numpy as np
import pytest

from lightgen_core.dedup import greedy
from lightgen_core.dedup.config import DedupConfig
from lightgen_core.dedup.images import find_duplicates
from lightgen_core.dedup.neighbour_index import index_factory
from tests.factories.vectors import unit

CONFIG = DedupConfig(threshold=0.95)


def on_circle(*degrees):
    """Unit vectors in the plane: the cosine of two is that of their angle."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def near(vectors, cosine, rng):
    """Unit vectors at exactly this cosine from the given ones."""
    other = rng.normal(size=vectors.shape)
    other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
    return unit(cosine * vectors + np.sqrt(1 - cosine**2) * unit(other))


def planted(rng, rows=2000, copies=200, width=64):
    """Distinct vectors followed by near copies of the first ones; ids and falling scores follow the rows."""
    base = unit(rng.normal(size=(rows, width)))
    vectors = np.concatenate([base, near(base[:copies], 0.97, rng)])
    return vectors, np.linspace(1, 0, len(vectors)), [f"{row:05d}" for row in range(len(vectors))]


def test_exactly_the_planted_duplicates_are_detected():
    vectors, score, ids = planted(np.random.default_rng(0))
    result = find_duplicates(vectors, None, score, ids, CONFIG)
    assert np.flatnonzero(~result.kept).tolist() == list(range(2000, 2200))
    assert result.duplicate_of[2000:] == ids[:200]
    assert set(result.reason[2000:]) == {"near duplicate"}
    assert np.allclose(result.similarity[2000:], 0.97, atol=1e-5)


def test_survivors_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(1)
    vectors, score, ids = planted(rng)
    score = np.round(score * 20)  # many ties: the id must break them
    groups = [int(number) % 3 for number in ids]
    config = DedupConfig(threshold=0.95, cluster_threshold=0.4)
    for chosen in (None, groups):
        one = find_duplicates(vectors, None, score, ids, config, groups=chosen)
        shuffle = rng.permutation(len(ids))
        shuffled_groups = None if chosen is None else [chosen[row] for row in shuffle]
        shuffled_ids = [ids[row] for row in shuffle]
        two = find_duplicates(vectors[shuffle], None, score[shuffle], shuffled_ids, config, groups=shuffled_groups)
        assert [one.duplicate_of[row] for row in shuffle] == two.duplicate_of
        assert [one.reason[row] for row in shuffle] == two.reason
        assert one.certificate == two.certificate


def test_the_better_score_survives_or_the_smaller_id_of_a_tie():
    vectors = on_circle(0, 1, 90, 91)
    result = find_duplicates(vectors, None, [0.1, 0.9, 0.5, 0.5], ["a", "b", "d", "c"], CONFIG)
    assert result.duplicate_of == ["b", None, "c", None]


def test_equal_bytes_are_exact_copies_before_any_similarity():
    vectors = on_circle(0, 0, 90, 1)
    result = find_duplicates(vectors, ["x", "x", "y", "z"], [4, 3, 2, 1], ["a", "b", "c", "d"], CONFIG)
    assert result.reason == [None, "exact copy", None, "near duplicate"]
    assert result.duplicate_of == [None, "a", None, "a"]
    assert result.similarity[1] == 1.0


def test_copies_in_half_precision_have_a_cosine_of_exactly_one():
    vectors = unit(np.random.default_rng(6).normal(size=(200, 64))).astype(np.float16).astype(np.float32)
    assert 1e-5 < np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-3
    ids = [f"{row:03d}" for row in range(400)]
    result = find_duplicates(np.repeat(vectors, 2, axis=0), None, np.zeros(400), ids, DedupConfig(threshold=1.0))
    assert result.kept.tolist() == [True, False] * 200
    assert set(result.similarity[1::2].tolist()) == {1.0}


def test_a_copy_of_a_dropped_row_names_the_row_that_stays():
    vectors = on_circle(0, 1, 1)
    result = find_duplicates(vectors, ["x", "y", "y"], [3, 2, 1], ["a", "b", "c"], CONFIG)
    assert result.duplicate_of == [None, "a", "a"]
    assert result.reason == [None, "near duplicate", "near duplicate"]


def test_a_chain_keeps_every_second_link_without_the_chain_rule():
    # Links of 15 degrees (0.966) are near duplicates, two links (0.866) are not.
    result = find_duplicates(on_circle(*range(0, 105, 15)), None, range(7, 0, -1), list("abcdefg"), CONFIG)
    assert result.kept.tolist() == [True, False, True, False, True, False, True]


@pytest.mark.parametrize(("links", "survivors"), [(4, 4), (5, 1)])
def test_the_chain_rule_keeps_one_of_five_links_and_all_of_four(links, survivors):
    # Links of 20 degrees (0.940): below the threshold, above the cluster threshold.
    config = DedupConfig(threshold=0.95, cluster_threshold=0.93)
    vectors = on_circle(*range(0, 20 * links, 20))
    result = find_duplicates(vectors, None, range(links, 0, -1), list("abcde")[:links], config)
    assert result.kept.sum() == survivors
    assert set(result.reason[1:]) == ({"chain"} if survivors == 1 else {None})
    assert result.duplicate_of[1:] == [("a" if survivors == 1 else None)] * (links - 1)


def test_rows_of_different_groups_are_never_duplicates():
    vectors = on_circle(0, 0, 1, 1)
    digests = ["x", "x", "y", "y"]
    result = find_duplicates(vectors, digests, [4, 3, 2, 1], list("abcd"), CONFIG, groups=["p", "q", "p", "q"])
    assert result.duplicate_of == [None, None, "a", "b"]


@pytest.fixture
def small_blocks(monkeypatch):
    """Let most rows be found by the index, not within their block."""
    monkeypatch.setattr(greedy, "BLOCK", 128)


@pytest.mark.parametrize("index", ["IVF32,Flat", "IVF32,SQfp16", "IVF16_HNSW8,SQ8"])
def test_inverted_files_find_the_planted_pairs_and_certify_it(small_blocks, index):
    vectors, score, ids = planted(np.random.default_rng(3), rows=3000, copies=400)
    result = find_duplicates(vectors, None, score, ids, DedupConfig(threshold=0.95, index=index))
    assert result.certificate.index == (index,)
    assert result.certificate.pairs == 400
    assert result.certificate.recall.value >= 0.97
    assert result.certificate.recall.low < result.certificate.recall.value
    assert (~result.kept).sum() >= 0.97 * 400


def test_the_certificate_sees_what_a_poor_search_misses(small_blocks):
    vectors, score, ids = planted(np.random.default_rng(4), rows=3000, copies=400)
    vectors[3000:] = near(vectors[:400], 0.8, np.random.default_rng(5))
    poor = DedupConfig(threshold=0.79, index="IVF64,Flat", search_recall=0.0)  # one probed list is enough
    certificate = find_duplicates(vectors, None, score, ids, poor).certificate
    assert certificate.probes == (1,)
    missed = find_duplicates(vectors, None, score, ids, poor).kept[3000:].sum()
    assert certificate.pairs == 400
    assert (certificate.found, missed > 50) == (400 - missed, True)
    assert certificate.recall.value == certificate.found / 400


def test_a_thousand_found_pairs_certify_more_than_995(small_blocks):
    vectors, score, ids = planted(np.random.default_rng(7), rows=3000, copies=1000)
    certificate = find_duplicates(vectors, None, score, ids, CONFIG).certificate
    assert (certificate.found, certificate.pairs) == (1000, 1000)
    assert 0.995 < certificate.recall.low == pytest.approx(1000 / (1000 + 1.96**2), abs=1e-6)


def test_nothing_to_find_has_no_recall():
    vectors = np.eye(8, dtype=np.float32)
    certificate = find_duplicates(vectors, None, np.zeros(8), list("abcdefgh"), CONFIG).certificate
    assert (certificate.pairs, certificate.recall) == (0, None)


@pytest.mark.parametrize(
    ("rows", "factory"),
    [
        (20_000, "Flat"),
        (20_001, "IVF512,Flat"),
        (200_000, "IVF2048,Flat"),
        (2_000_000, "IVF8192,Flat"),
        (20_000_000, "IVF16384,Flat"),
        (40_000_000, "IVF32768_HNSW32,Flat"),
    ],
)
def test_the_index_is_chosen_by_the_number_of_rows(rows, factory):
    assert index_factory(rows) == factory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": 2 * np.eye(2, dtype=np.float32)}, "vector 0 has norm 2; expected 1"),
        ({"vectors": np.eye(2)}, "expected float32"),
        ({"ids": ["a", "a"]}, "1 of 2 ids repeat"),
        ({"score": [0.0, np.nan]}, "1 of 2 scores are not finite"),
        ({"digests": ["x"]}, "found 1 digests for 2 vectors"),
        ({"config": DedupConfig(index="IVF9,Flat")}, "9 lists for 2 rows"),
        ({"config": DedupConfig(index="Tree")}, "faiss knows no index 'Tree'"),
    ],
)
def test_what_cannot_be_deduplicated_is_refused(change, message):
    given = {
        "vectors": np.eye(2, dtype=np.float32),
        "digests": None,
        "score": [1, 0],
        "ids": ["a", "b"],
        "config": CONFIG,
    }
    with pytest.raises(ValueError, match=message):
        find_duplicates(**(given | change))


def test_a_chain_rule_stricter_than_the_pair_rule_is_refused():
    with pytest.raises(ValueError, match=r"cluster_threshold 0.97 exceeds threshold 0.95"):
        DedupConfig(threshold=0.95, cluster_threshold=0.97)
