"""Search for perceptual hashes: exact within the bits, and bounded where very many are alike."""

import itertools

import numpy as np
import pytest

from lightgen_core.dedup import hash_index
from lightgen_core.dedup.copy_features import HASH_BYTES, VIEWS
from lightgen_core.dedup.hash_index import NEAREST, HashIndex
from lightgen_core.dedup.search import SearchThreads


def hashes_at_all_distances():
    """60 groups of 13 whose first views differ by 0 to 12 bits from the group's; other views are of their own."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, HASH_BYTES), dtype=np.uint8)
    bits = np.unpackbits(np.repeat(base, 13, axis=0), axis=1)
    for row, flips in zip(bits, itertools.cycle(range(13)), strict=False):
        row[rng.choice(64, flips, replace=False)] ^= 1
    hashes = rng.integers(0, 256, (len(bits), VIEWS, HASH_BYTES), dtype=np.uint8)
    hashes[:, 0] = np.packbits(bits, axis=1)
    hashes[::7, 4] = hashes[::7, 0]  # views that find the same once more
    return hashes, (bits[:, None] != bits[None]).sum(axis=2)


@pytest.mark.parametrize("long", [0, hash_index._LONG])
@pytest.mark.parametrize("bits", [0, 3, 10, 11])
def test_every_hash_within_the_bits_is_found(monkeypatch, bits, long):
    """By both kinds of search, against a count of bits."""
    monkeypatch.setattr(hash_index, "_LONG", long)
    hashes, distance = hashes_at_all_distances()
    index = HashIndex(bits, SearchThreads(2))
    for start in range(0, len(hashes), 300):
        index.add(hashes[start : start + 300], np.arange(start, min(start + 300, len(hashes))) + 1000)
    row, ids, crowded = index.search(hashes)
    expected = set(zip(*(each.tolist() for each in np.nonzero(distance <= bits)), strict=True))
    found = list(zip(row.tolist(), (ids - 1000).tolist(), strict=True))
    assert (len(found), set(found), crowded.any()) == (len(expected), expected, False)


def test_hashes_of_a_block_are_near_either_way_round():
    hashes, distance = hashes_at_all_distances()
    near = HashIndex(10, SearchThreads(1)).near_within(hashes)
    assert (near == (distance <= 10)).all()


@pytest.mark.parametrize("long", [0, hash_index._LONG])
def test_of_a_crowd_of_hashes_the_nearest_are_found(monkeypatch, long):
    monkeypatch.setattr(hash_index, "_LONG", long)
    hashes = np.zeros((500, VIEWS, HASH_BYTES), np.uint8)
    hashes[NEAREST:, :, 0] = 1
    hashes[-1] = 255
    index = HashIndex(10, SearchThreads(1))
    index.add(hashes, np.arange(500))
    row, ids, crowded = index.search(hashes[[0, 499]])
    assert (ids[row == 0].tolist(), ids[row == 1].tolist()) == (list(range(NEAREST)), [499])
    assert crowded.tolist() == [True, False]
