"""Selection in blocks: resumed after a kill, the same for any threads and order, and bounded in a crowd."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from lightgen_core.dedup import greedy
from lightgen_core.dedup.config import CopyConfig, DedupConfig
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.copy_features import HASH_BYTES, THUMBNAIL, VIEWS
from lightgen_core.dedup.images import find_duplicates
from lightgen_core.dedup.search import Subset
from tests.factories.vectors import unit
from tests.programs.deduplicate import POOR, near_vectors
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(greedy, "BLOCK", 128)


def crowd(rows, width=64):
    """Vectors that are all within 0.96 of each other, and by themselves."""
    rng = np.random.default_rng(0)
    return unit(np.ones((1, width)) + 0.2 * rng.normal(size=(rows, width)))


def deduplicate(vectors, config, **options):
    return find_duplicates(vectors, None, np.zeros(len(vectors)), range(len(vectors)), config, **options)


@pytest.fixture
def compared(monkeypatch):
    """Collects how many pairs are compared."""
    pairs, cosines = [], Subset.cosines

    def counted(self, left, right):
        pairs.append(len(left))
        return cosines(self, left, right)

    monkeypatch.setattr(Subset, "cosines", counted)
    return pairs


def test_a_crowd_costs_a_few_comparisons_a_row(compared):
    """Not a million pairs for 2,000 rows: all but one go."""
    result = deduplicate(crowd(2000), DedupConfig(threshold=0.9))
    assert result.kept.sum() == 1
    assert sum(compared) <= 4 * 2000


def test_a_crowd_that_captions_tell_apart_is_bounded(monkeypatch):
    """At most k thumbnails a row and source are compared, and every row but the first k is counted."""
    rows, k, looked = 1000, 5, []
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 256, (rows, VIEWS, HASH_BYTES), dtype=np.uint8)
    thumbnails = rng.integers(0, 256, (rows, THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    matcher = CopyMatcher(hashes, thumbnails, [f"caption {row}" for row in range(rows)], CopyConfig())
    agree = matcher.agree
    monkeypatch.setattr(matcher, "agree", lambda left, *rest: looked.append(len(left)) or agree(left, *rest))
    result = deduplicate(crowd(rows), DedupConfig(threshold=0.9, k=k), copies=matcher)
    assert result.kept.all()
    assert result.certificate.crowded == rows - k - 1
    assert sum(looked) <= 2 * k * rows


def test_a_near_row_of_the_same_caption_goes_in_any_crowd():
    rows = 300
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 256, (rows, VIEWS, HASH_BYTES), dtype=np.uint8)
    thumbnails = rng.integers(0, 256, (rows, THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    captions = [f"caption {row % 150}" for row in range(rows)]
    matcher = CopyMatcher(hashes, thumbnails, captions, CopyConfig())
    result = deduplicate(crowd(rows), DedupConfig(threshold=0.9, k=5), copies=matcher)
    assert result.duplicate_of == [None] * 150 + list(range(150))


def test_one_thread_and_two_overlook_the_same_pairs():
    vectors = near_vectors()
    one, two = (deduplicate(vectors, POOR, threads=threads) for threads in (1, 2))
    assert (one.duplicate_of, one.certificate) == (two.duplicate_of, two.certificate)
    assert one.certificate.found < one.certificate.pairs


def test_any_order_of_rows_overlooks_the_same_pairs():
    vectors, shuffle = near_vectors(), np.random.default_rng(2).permutation(len(near_vectors()))
    one = deduplicate(vectors, POOR)
    two = find_duplicates(vectors[shuffle], None, np.zeros(len(vectors)), shuffle.tolist(), POOR)
    assert [one.duplicate_of[row] for row in shuffle] == two.duplicate_of
    assert one.certificate == two.certificate


def test_a_killed_search_goes_on_at_the_next_block(tmp_path):
    """It ends with the same verdicts; blocks that were decided are not decided again."""
    command = [sys.executable, "-m", "tests.programs.deduplicate", str(tmp_path)]
    killed = subprocess.run([*command, "640"], cwd=ROOT)
    blocks = sorted(tmp_path.rglob("block-*.npz"))
    times = [block.stat().st_mtime_ns for block in blocks]
    subprocess.run([*command, "0"], cwd=ROOT, check=True)
    again = np.load(tmp_path / "duplicate_of.npy")
    whole = deduplicate(near_vectors(), POOR).duplicate_of
    assert (killed.returncode, len(blocks)) == (-signal.SIGKILL, 5)
    assert [block.stat().st_mtime_ns for block in blocks] == times
    assert again.tolist() == [-1 if other is None else other for other in whole]
