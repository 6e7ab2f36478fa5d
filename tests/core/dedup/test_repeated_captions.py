"""Captions that share a bucket: decided in blocks as one by one, whatever the sizes of blocks, chunks and bitmaps."""

import numpy as np
import pytest

from lightgen_core.dedup import repeated_captions
from lightgen_core.dedup.minhash import near_duplicate_captions

WORDS = np.array([f"w{number}" for number in range(40)])


def texts(rng, count, words, copies):
    """Captions of random words; `copies` of them repeat another but for one word or two."""
    out = [list(rng.choice(WORDS, rng.integers(1, words))) for _ in range(count)]
    for _ in range(copies):
        row = list(out[rng.integers(len(out))])
        for place in rng.integers(len(row), size=rng.integers(0, 3)):
            row[place] = str(rng.choice(WORDS))
        out.insert(rng.integers(len(out)), row)
    return [" ".join(row) for row in out]


SETS = {
    "short and long": lambda rng: texts(rng, 300, 60, 300),
    "near each other": lambda rng: texts(rng, 5, 30, 700),
    "all equal but for one word": lambda rng: [f"a photo of a {word} on a wooden table at dawn" for word in WORDS] * 9,
    "one word": lambda rng: texts(rng, 30, 2, 100),
    "one": lambda rng: ["a red circle"],
    "none": lambda rng: [],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("threshold", [0.2, 0.6, 1.0])
def test_blocks_and_chunks_change_nothing(name, threshold, monkeypatch):
    captions = SETS[name](np.random.default_rng(3))
    whole = near_duplicate_captions(captions, threshold, seed=1)
    monkeypatch.setattr(repeated_captions, "_PAIRS", 7)
    monkeypatch.setattr(repeated_captions, "_BLOCK", 16)
    monkeypatch.setattr(repeated_captions, "_CHUNK", 10)
    monkeypatch.setattr(repeated_captions, "_WORDS", (64, 64))
    parts = near_duplicate_captions(captions, threshold, seed=1)
    assert np.array_equal(parts.duplicate_of, whole.duplicate_of)
    assert np.array_equal(parts.similarity, whole.similarity, equal_nan=True)


@pytest.mark.parametrize("name", ["short and long", "near each other", "all equal but for one word"])
def test_bitmaps_overlook_no_pair(name, monkeypatch):
    """With every pair compared exactly, the same captions stay."""
    captions = SETS[name](np.random.default_rng(4))
    bounded = near_duplicate_captions(captions, 0.5, seed=1)
    looked_at = []

    def all_pairs(self, run, other):
        looked_at.append(len(run))
        return np.stack([run, other], axis=1)

    monkeypatch.setattr(repeated_captions._Bitmaps, "may_repeat", all_pairs)
    exact = near_duplicate_captions(captions, 0.5, seed=1)
    assert sum(looked_at) > len(captions)
    assert np.array_equal(exact.duplicate_of, bounded.duplicate_of)


def test_bitmaps_spare_most_comparisons_of_unlike_captions(monkeypatch):
    """Captions of one form share buckets and hardly a shingle: a comparison for each would be quadratic."""
    rng = np.random.default_rng(5)
    captions = ["a photo of " + " ".join(rng.choice(WORDS, 12)) for _ in range(2000)]
    compared = []
    monkeypatch.setattr(repeated_captions, "_jaccard", lambda one, other: compared.append(1) or 0.0)
    near_duplicate_captions(captions, 0.4, seed=0)
    assert len(compared) < 200
