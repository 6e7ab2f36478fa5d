"""Batches: every row once an epoch, in an order that the seed gives, with the values that were written."""

import hashlib
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lightgen_core.data.batches import DataError, PairSource, TokenSource, prefetch
from lightgen_core.data.shuffle import epoch_order, rows_at
from lightgen_core.model.patchify import unpatchify
from tests.factories.tiny_student import GRID, LAYOUT, LONGEST, PATCH, SIDE, TEXT_WIDTH, TOKEN_WIDTH, TOKENS, write_rows


def source_of(files, batch_size=4, seed=0, kind=TokenSource, **limits):
    return kind(files, patch=PATCH, batch_size=batch_size, seed=seed, **limits)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 96, 1000])
def test_every_epoch_visits_every_row_once(rows):
    seen = rows_at(np.arange(3 * rows), rows, seed=5).reshape(3, rows)
    assert (np.sort(seen, axis=1) == np.arange(rows)).all()


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = rows_at(np.arange(2000), 1000, seed=0).reshape(2, 1000)
    other = rows_at(np.arange(1000), 1000, seed=1)
    # Two random permutations agree in one place on average; six are a one in a thousand chance.
    assert (first == second).sum() < 6 and (first == other).sum() < 6


def test_the_order_is_spread_evenly():
    """Rows 0 to 9 land evenly over 2,000 epochs: each cell of the 10 x 10 table holds 200, give or take 14."""
    counts = np.zeros((10, 10))
    for epoch in range(2000):
        counts[np.arange(10), epoch_order(epoch, 10, seed=0)] += 1
    assert counts.min() > 140 and counts.max() < 260


def test_the_order_does_not_change_from_release_to_release():
    assert epoch_order(0, 10, seed=0).tolist() == [1, 5, 4, 9, 2, 7, 0, 6, 3, 8]


def test_a_batch_may_hold_many_epochs():
    seen = rows_at(np.arange(25), 3, seed=0)
    assert (np.sort(seen[:24].reshape(8, 3), axis=1) == np.arange(3)).all()


def test_batch_size_does_not_change_the_order(tmp_path):
    file = write_rows(tmp_path / "a.parquet", rows=10)
    by_four, by_six = source_of([file], 4), source_of([file], 6)
    ids = [
        np.concatenate([source.batch(step).ids for step in range(24 // size)])
        for source, size in ((by_four, 4), (by_six, 6))
    ]
    assert (ids[0] == ids[1]).all()


def test_files_do_not_change_the_order(tmp_path):
    whole = write_rows(tmp_path / "whole.parquet", rows=10)
    table = pq.read_table(whole)
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(table.slice(0, 3), parts[0])
    pq.write_table(table.slice(3), parts[1], row_group_size=2)
    one, many = source_of([whole]).batch(1), source_of(parts).batch(1)
    assert (one.ids == many.ids).all() and one.tokens.equal(many.tokens) and one.text.equal(many.text)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_batch_holds_the_values_that_were_written(tmp_path, dtype):
    latents, words = torch.randn(5, 2, SIDE, SIDE).to(dtype), [1, LONGEST, 2, 3, 2]
    text = [torch.randn(count, TEXT_WIDTH).to(dtype) for count in words]
    file = write_rows(
        tmp_path / "a.parquet",
        rows=5,
        layout=LAYOUT | {"dtype": str(dtype).removeprefix("torch.")},
        latents=[image.view(torch.int16).numpy().tobytes() for image in latents],
        text=[states.view(torch.int16).numpy().tobytes() for states in text],
        text_length=np.array(words, dtype=np.int32),
    )
    source = source_of([file], batch_size=5)
    batch = source.batch(0).to(torch.device("cpu"))
    assert batch.grid == GRID and batch.tokens.shape == (5, TOKENS, TOKEN_WIDTH)
    assert batch.tokens.dtype == batch.text.dtype == torch.float32
    assert batch.text.shape == (5, LONGEST, TEXT_WIDTH) and batch.text_mask.sum(dim=1).tolist() == [
        words[row - 100] for row in batch.ids
    ]
    images = unpatchify(batch.tokens, GRID, channels=2, patch=PATCH)
    for place, row in enumerate(batch.ids - 100):
        assert images[place].equal(latents[row].float())
        assert batch.text[place, : words[row]].equal(text[row].float())
        assert not batch.text[place, words[row] :].any()


def test_text_is_padded_to_the_longest_of_the_batch_only(tmp_path):
    source = source_of([write_rows(tmp_path / "a.parquet", rows=10)], batch_size=1)
    assert {source.batch(step).text_mask.all().item() for step in range(10)} == {True}


def test_parts_of_a_batch_are_its_rows(tmp_path):
    source = source_of([write_rows(tmp_path / "a.parquet", rows=10)], batch_size=7)
    for step in range(4):
        whole = source.batch(step)
        parts = [source.batch(step, 0, 2), source.batch(step, 2, 5), source.batch(step, 5)]
        assert np.concatenate([part.ids for part in parts]).tolist() == whole.ids.tolist()
        assert torch.cat([part.tokens for part in parts]).equal(whole.tokens)
        for part, first in zip(parts, (0, 2, 5), strict=True):
            words = part.text.shape[1]
            assert part.text.equal(whole.text[first : first + len(part.ids), :words])
            assert words == part.text_mask.sum(dim=1).max()


def test_batches_are_those_of_earlier_versions_to_the_bit(tmp_path):
    digest = hashlib.sha256()
    source = source_of([write_rows(tmp_path / "a.parquet", rows=50)], seed=7)
    for step in range(30):
        batch = source.batch(step)
        halves = (batch.tokens.view(torch.int16).numpy(), batch.text.view(torch.int16).numpy())
        for values in (batch.ids, *halves, batch.text_mask.numpy()):
            digest.update(values.tobytes())
    assert digest.hexdigest()[:16] == "97b65d8e0fabc60d"


def test_pairs_hold_winner_and_loser_of_the_same_row(tmp_path):
    file = write_rows(tmp_path / "a.parquet", rows=6, images=("winner", "loser"))
    batch = source_of([file], batch_size=6, kind=PairSource).batch(0)
    table = pq.read_table(file)
    for name in ("winner", "loser"):
        images = unpatchify(getattr(batch, name), GRID, channels=2, patch=PATCH)
        for place, row in enumerate(batch.ids - 100):
            assert images[place].numpy().tobytes() == table[name][int(row)].as_py()


def test_a_row_of_the_wrong_size_is_named(tmp_path):
    latents = [b"\0" * (2 * 2 * SIDE * SIDE)] * 3
    file = write_rows(tmp_path / "a.parquet", rows=3, latents=[latents[0], latents[1][:-2], latents[2]])
    with pytest.raises(DataError, match="latents of row 101 has 142 bytes; expected 144"):
        source_of([file])


def test_a_row_without_text_tokens_is_named(tmp_path):
    file = write_rows(tmp_path / "a.parquet", rows=2, text_length=np.array([1, 0], dtype=np.int32))
    with pytest.raises(DataError, match="row 101 has no words"):
        source_of([file])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": None}, "without the schema metadata"),
        ({"layout": LAYOUT | {"dtype": "float64"}}, "dtype one of"),
        ({"images": ("winner", "loser")}, "without column latents"),
        ({"layout": LAYOUT | {"channels": 1, "height": 9, "width": 8}}, "do not divide into patches of 2"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        source_of([write_rows(tmp_path / "a.parquet", rows=2, **changes)])


def test_a_set_without_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        source_of([write_rows(tmp_path / "a.parquet", rows=0)])


def test_prefetched_steps_come_in_order_and_end():
    assert list(prefetch(lambda step: step * step, range(3, 7))) == [9, 16, 25, 36]
    assert list(prefetch(lambda step: step, range(3, 3))) == []


def test_an_error_while_prefetching_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda step: 1 // (step - 1), range(3)))


def test_prefetching_is_as_deep_as_requested_and_no_deeper():
    started, go_on = [], threading.Semaphore(0)

    def prepare(step: int) -> int:
        started.append(step)
        go_on.release()
        return step

    steps = prefetch(prepare, range(10), depth=3)
    assert next(steps) == 0
    for _ in range(4):
        assert go_on.acquire(timeout=300)
    assert started == [0, 1, 2, 3] and not go_on.acquire(timeout=0.05)
    assert list(steps) == [*range(1, 10)]
