"""Batches of sets with several shapes: one bucket each, in proportion, every row once in its bucket's epoch."""

import pickle
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from lightgen_core.config import ParallelConfig
from lightgen_core.data import row_reader as rows_module
from lightgen_core.data.batches import DataError, TokenSource, prefetch
from lightgen_core.data.shuffle import bucket_turn
from lightgen_core.model.patchify import unpatchify
from tests.factories.tiny_student import LAYOUT, PATCH, tiny_student, tiny_training, train, write_buckets, write_rows

ROWS = {(6, 6): 5, (4, 8): 4, (8, 4): 7, (2, 2): 0}


def source_of(files, batch_size=4, **options):
    return TokenSource(files, patch=PATCH, batch_size=batch_size, seed=7, **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [[5, 0, 90, 3, 902], [1], [0, 7], [3, 3], [1, 10**9]])
def test_turns_count_the_steps_before_of_the_same_bucket(rows, seed):
    seen = [0] * len(rows)
    for step in range(2000):
        bucket, turn = bucket_turn(step, rows, seed)
        assert turn == seen[bucket]
        seen[bucket] += 1
        shares = [(step + 1) * count / sum(rows) for count in rows]
        assert max(abs(found - share) for found, share in zip(seen, shares, strict=True)) < 5
    assert [count for count, own in zip(seen, rows, strict=True) if own == 0] == [0] * rows.count(0)


def test_turns_do_not_change_from_release_to_release():
    assert [bucket_turn(step, [3, 2, 5], 0)[0] for step in range(12)] == [0, 2, 1, 0, 2, 0, 2, 2, 0, 2, 1, 2]
    assert bucket_turn(10**9, [3, 2, 5], 0) == (2, 499_999_997)
    assert bucket_turn(41, [6], 3) == (0, 41)


def test_a_batch_is_of_one_shape_with_the_values_written(tmp_path):
    source = source_of(write_buckets(tmp_path, ROWS))
    shapes, first = {}, 100
    for number, ((height, width), count) in enumerate(ROWS.items()):
        rng = np.random.default_rng(number)
        for row in range(first, first + count):
            shapes[row] = torch.from_numpy(rng.standard_normal((2, height, width)).astype(np.float16))
        first += count
    grids = set()
    for step in range(40):
        batch = source.batch(step)
        assert batch.tokens.shape == (4, batch.grid[0] * batch.grid[1], 8)
        for image, row in zip(unpatchify(batch.tokens, batch.grid, channels=2, patch=PATCH), batch.ids, strict=True):
            assert image.equal(shapes[row])
        grids.add(batch.grid)
    assert grids == {(3, 3), (2, 4), (4, 2)} and source.rows == 16


def test_every_row_is_seen_once_in_an_epoch_of_its_bucket(tmp_path):
    source = source_of(write_buckets(tmp_path, ROWS), batch_size=3)
    seen = {}
    for step in range(160):
        batch = source.batch(step)
        seen.setdefault(batch.grid, []).extend(batch.ids.tolist())
    for grid, first, rows in (((3, 3), 100, 5), ((2, 4), 105, 4), ((4, 2), 109, 7)):
        ids = np.array(seen[grid])
        assert abs(len(ids) / 480 - rows / 16) < 0.02
        epochs = ids[: len(ids) // rows * rows].reshape(-1, rows)
        assert (np.sort(epochs, axis=1) == np.arange(first, first + rows)).all()
        assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_steps_may_be_read_in_any_order_and_in_parts(tmp_path):
    files = write_buckets(tmp_path, ROWS)
    whole = [source_of(files).batch(step) for step in range(12)]
    source = pickle.loads(pickle.dumps(source_of(files[::-1])))
    for step in (11, 3, 4, 0, 11):
        parts = [source.batch(step, 0, 1), source.batch(step, 1)]
        assert np.concatenate([part.ids for part in parts]).tolist() == whole[step].ids.tolist()
        assert torch.cat([part.tokens for part in parts]).equal(whole[step].tokens)
        assert {part.grid for part in parts} == {whole[step].grid}


def test_prefetched_batches_are_those_read_at_once(tmp_path, monkeypatch):
    """Also where every batch is announced, and fewer files than buckets may stay mapped."""
    expected = [source_of(write_buckets(tmp_path, ROWS)).batch(step) for step in range(20)]
    monkeypatch.setattr(rows_module, "SMALL", 0)
    monkeypatch.setattr(rows_module, "MAPPED_FILES", 2)
    source = source_of(write_buckets(tmp_path, ROWS))
    for found, batch in zip(prefetch(source.batch, range(20), depth=2), expected, strict=True):
        assert found.ids.tolist() == batch.ids.tolist() and found.tokens.equal(batch.tokens)
        assert found.text.equal(batch.text) and found.grid == batch.grid


def test_a_bucket_without_kept_rows_is_never_drawn(tmp_path):
    files = write_buckets(tmp_path, ROWS)
    keep = np.array([101, 103, 110, 112, 115])
    source = source_of(files, keep=keep)
    batches = [source.batch(step) for step in range(30)]
    assert {batch.grid for batch in batches} == {(3, 3), (4, 2)} and source.rows == 5
    assert set(np.concatenate([batch.ids for batch in batches]).tolist()) == set(keep.tolist())


def test_one_kept_shape_gives_the_batches_of_a_set_of_one(tmp_path):
    files = write_buckets(tmp_path, ROWS)
    many, one = source_of(files, keep=np.arange(109, 116)), source_of([files[2]])
    for step in range(10):
        assert many.batch(step).ids.tolist() == one.batch(step).ids.tolist()
        assert many.batch(step).tokens.equal(one.batch(step).tokens)


def test_files_that_differ_in_more_than_shape_are_refused(tmp_path):
    files = write_buckets(tmp_path, {(6, 6): 3})
    other = LAYOUT | {"height": 4, "width": 9, "dtype": "bfloat16"}
    files.append(write_rows(tmp_path / "b.parquet", rows=2, layout=other))
    with pytest.raises(DataError, match=r"b\.parquet holds .*bfloat16.*; train on one kind"):
        source_of(files)


def test_training_resumes_in_buckets_to_the_bit(tmp_path):
    source, place = source_of(write_buckets(tmp_path, ROWS)), {"seed": 7, "device": torch.device("cpu")}
    whole = train(tiny_student(), source, tiny_training(), folder=tmp_path / "whole", **place)
    shutil.copytree(tmp_path / "whole/step-00000003", tmp_path / "cut/step-00000003")
    resumed = train(tiny_student(), source, tiny_training(), folder=tmp_path / "cut", **place)
    assert len({source.batch(step).grid for step in range(3, 6)}) > 1
    assert whole.rows == resumed.rows and all(whole.raw[name].equal(resumed.raw[name]) for name in whole.raw)


def test_frugal_training_in_buckets_has_equal_losses(tmp_path, monkeypatch, unchecked_shapes):
    """Compiled, recomputed blocks and micro-batches have the losses of a plain run."""
    source, place = source_of(write_buckets(tmp_path, ROWS)), {"seed": 7, "device": torch.device("cpu")}
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))
    frugal = ParallelConfig(micro_batch=1, activation_checkpointing=True, compile=True)
    runs = [
        train(tiny_student(dropout=0.0), source, tiny_training(), folder=tmp_path / name, parallel=layout, **place)
        for name, layout in (("one", ParallelConfig()), ("parts", frugal))
    ]
    losses = [[row["loss"] for row in run.rows] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
