"""Rows with weights, and rows with several captions: how often each comes, and that a step alone says which."""

import json
import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightgen_core.data.batches import DataError, TokenSource
from lightgen_core.data.token_file import kept_ids
from tests.factories.tiny_student import LAYOUT, PATCH, TEXT_WIDTH, write_buckets, write_rows


def ids_of(source, steps):
    return [row for step in range(steps) for row in source.batch(step).ids.tolist()]


def source_of(files, batch_size=5, **options):
    return TokenSource(files, patch=PATCH, batch_size=batch_size, seed=3, **options)


def test_rows_come_in_proportion_to_their_weights(tmp_path):
    files, keep = [write_rows(tmp_path / "a.parquet", rows=8)], np.arange(100, 108)
    keep = pq.read_table(files[0])["id"].to_numpy()
    weights = np.array([2, 2, 1, 1, 1, 0, 0.5, 0.5])
    source = source_of(files, keep=keep, weights=weights)
    seen = Counter(ids_of(source, 160))
    assert [seen[row] / 100 for row in keep.tolist()] == pytest.approx(weights.tolist(), abs=0.03)
    assert source.rows == 7


def test_equal_weights_change_no_batch(tmp_path):
    files = write_buckets(tmp_path, {(6, 6): 5, (4, 8): 4, (8, 4): 7})
    keep = np.concatenate([pq.read_table(file)["id"].to_numpy() for file in files])
    plain = source_of(files, keep=keep)
    assert ids_of(plain, 40) == ids_of(source_of(files, keep=keep, weights=np.full(len(keep), 0.3)), 40)


def test_a_bucket_has_the_share_of_its_rows_weights(tmp_path):
    files = write_buckets(tmp_path, {(6, 6): 6, (4, 8): 6})
    keep = np.concatenate([pq.read_table(file)["id"].to_numpy() for file in files])
    source = source_of(files, keep=keep, weights=np.repeat([3.0, 1.0], 6))
    grids = Counter(source.batch(step).grid for step in range(200))
    assert grids[(3, 3)] == pytest.approx(150, abs=3)


def test_parts_of_a_weighted_batch_are_its_rows_in_any_process(tmp_path):
    files = [write_rows(tmp_path / "a.parquet", rows=10)]
    keep = pq.read_table(files[0])["id"].to_numpy()
    source = source_of(files, keep=keep, weights=np.linspace(0.1, 1, 10))
    other = pickle.loads(pickle.dumps(source))
    for step in (0, 7, 10**6):
        parts = [other.batch(step, 0, 2).ids, other.batch(step, 2).ids]
        assert np.concatenate(parts).tolist() == source.batch(step).ids.tolist()


def test_weights_of_nothing_are_refused(tmp_path):
    files = [write_rows(tmp_path / "a.parquet", rows=4)]
    keep = pq.read_table(files[0])["id"].to_numpy()
    with pytest.raises(DataError, match="every row that is kept has weight 0"):
        source_of(files, keep=keep, weights=np.zeros(4))


def test_a_keep_list_may_hold_weights(tmp_path):
    table = pa.table({"id": [4, 5, 6], "kept": [True, False, True], "weight": [0.5, 9.0, 2.0]})
    pq.write_table(table, tmp_path / "keep.parquet")
    ids, weights = kept_ids(tmp_path / "keep.parquet")
    assert (ids.tolist(), weights.tolist()) == ([4, 6], [0.5, 2])
    pq.write_table(table.drop_columns("weight"), tmp_path / "plain.parquet")
    assert kept_ids(tmp_path / "plain.parquet")[1] is None
    pq.write_table(table.set_column(2, "weight", pa.array([-1.0, 0, 0])), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="column weight holds -1"):
        kept_ids(tmp_path / "bad.parquet")


@pytest.fixture
def captioned(tmp_path):
    """Six images, each with a text of its number, of its number + 10, and of its number + 20 in every value."""
    images = pq.read_table(write_rows(tmp_path / "a.parquet", rows=6)).drop_columns(["text", "text_length"])
    numbers = np.arange(6)
    for place, name in enumerate(("caption_id", "short_id", "long_id")):
        images = images.append_column(name, pa.array(numbers + 10 * place, pa.int64()))
    pq.write_table(images, tmp_path / "images.parquet", compression="none", use_dictionary=False)
    values = np.concatenate([numbers, numbers + 10, numbers + 20])
    text = [np.full((1 + value % 3, TEXT_WIDTH), value, np.float16).tobytes() for value in values.tolist()]
    columns = {"id": pa.array(values, pa.int64()), "text": pa.array(text, pa.binary())}
    columns["text_length"] = pa.array(1 + values % 3, pa.int32())
    layout = {"lightgen": json.dumps({"dtype": LAYOUT["dtype"], "text_width": TEXT_WIDTH})}
    table = pa.table(columns).replace_schema_metadata(layout)
    pq.write_table(table, tmp_path / "texts.parquet", compression="none", use_dictionary=False)
    return {"files": [tmp_path / "images.parquet"], "texts": [tmp_path / "texts.parquet"]}


def chosen(source, steps):
    """Return id and number of the caption of each row, by the value of its text."""
    ids = pq.read_table(captions_file(source))["id"].to_numpy().tolist()
    result = []
    for step in range(steps):
        batch = source.batch(step)
        for row, text, mask in zip(batch.ids.tolist(), batch.text, batch.text_mask, strict=True):
            (value,) = set(text[mask].flatten().tolist())
            assert int(value) % 10 == ids.index(row), "the caption of another image"
            result.append((row, int(value) // 10))
    return result


def captions_file(source):
    return source._buckets[0]._rows._files[0][0]


def test_each_row_comes_with_one_of_its_captions_by_share(captioned):
    shares = {"caption_id": 1, "short_id": 3, "long_id": 4}
    counts = Counter(number for _, number in chosen(source_of(**captioned, caption_shares=shares), 400))
    assert [counts[number] / 2000 for number in range(3)] == pytest.approx([1 / 8, 3 / 8, 1 / 2], abs=0.03)


def test_a_step_alone_says_which_caption_and_the_rows_stay(captioned):
    shares = {"short_id": 0.5, "long_id": 0.5}
    first, later = source_of(**captioned, caption_shares=shares), source_of(**captioned, caption_shares=shares)
    steps = [first.batch(step) for step in range(12)]
    again = later.batch(11, 1)
    assert again.ids.tolist() == steps[11].ids[1:].tolist()
    assert torch.equal(again.text[:, :1], steps[11].text[1:, :1])
    plain = source_of(**captioned)
    assert [batch.ids.tolist() for batch in steps] == [plain.batch(step).ids.tolist() for step in range(12)]


def test_one_column_of_captions_needs_no_other(captioned):
    assert {number for _, number in chosen(source_of(**captioned, caption_shares={"long_id": 1}), 4)} == {2}
    with pytest.raises(DataError, match="without column other_id"):
        source_of(**captioned, caption_shares={"other_id": 1})
