"""Rows by their places: the right ones, and no more of the files than they take."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.open_store import open_store
from storage.rows import rows_at, take_in_order, take_rows
from storage.tables import IMAGE, ROW_GROUP, layout_metadata, schema, to_parquet

FILES = (2 * ROW_GROUP + 300, 5, ROW_GROUP)
ROWS = sum(FILES)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    """Three files of numbered rows with an image each, of five row groups in all."""
    made = Artifact(open_store(str(tmp_path_factory.mktemp("store"))), "synthesis", "key")
    kinds, start = schema({"id": pa.int64(), "image": IMAGE}, {"dtype": "float16"}), 0
    for number, rows in enumerate(FILES):
        ids = range(start, start + rows)
        images = [{"bytes": str(row).encode() * 50, "path": None} for row in ids]
        table = pa.table({"id": ids, "image": images}, kinds)
        made.add(f"images-{number:05d}.parquet", to_parquet(table), rows, {})
        start += rows
    entries = tuple(made.records().values())
    facts = {"timings": {}, "device_seconds": 0.0, "software": {}, "host": {}, "created_at": ""}
    made.commit(
        Manifest(stage="synthesis", key="key", stage_version=1, config={}, inputs={}, files=entries, counts={}, **facts)
    )
    return made


def test_rows_are_the_requested_ones_across_files_and_groups(artifact):
    wanted = np.unique(np.random.default_rng(0).integers(0, ROWS, 40)).tolist()
    found = take_rows(artifact, "^images", wanted)
    assert found["id"].to_pylist() == wanted
    assert [row["bytes"] for row in found["image"].to_pylist()] == [str(row).encode() * 50 for row in wanted]
    assert layout_metadata(found.schema) == {"dtype": "float16"}


def test_columns_are_the_requested_ones(artifact):
    found = take_rows(artifact, "^images", [3], ["image", "id"])
    assert found.column_names == ["image", "id"]
    assert len(take_rows(artifact, "^images", [])) == 0


def test_only_row_groups_that_hold_a_wanted_row_are_read(artifact, monkeypatch):
    read = []
    honest = pq.ParquetFile.iter_batches

    def watched(self, *arguments, row_groups, **options):
        read.append(row_groups)
        return honest(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    take_rows(artifact, "^images", [ROW_GROUP + 1, ROW_GROUP + 2, ROWS - 1])
    assert read == [[1], [0]]


@pytest.mark.parametrize(("rows", "error"), [([2, 1], ValueError), ([1, 1], ValueError), ([-1], ValueError)])
def test_indices_out_of_order_are_refused(artifact, rows, error):
    with pytest.raises(error, match="rising order"):
        take_rows(artifact, "^images", rows)


def test_an_index_beyond_the_last_row_is_an_error(artifact):
    with pytest.raises(IndexError, match=f"has {ROWS} rows"):
        take_rows(artifact, "^images", [ROWS])


@pytest.fixture
def large_table() -> pa.Table:
    """40 views of one image of 64 MiB, 2.5 GiB in all: `Table.take` would join the chunks first."""
    chunk = pa.array([{"bytes": bytes(64 << 20), "path": None}], IMAGE)
    return pa.table({"id": range(40), "image": pa.chunked_array([chunk] * 40)})


def test_rows_beyond_two_gibibytes_are_chosen_chunk_by_chunk(large_table):
    chosen = rows_at(large_table, [0, 39])
    assert chosen["id"].to_pylist() == [0, 39] and chosen["image"].num_chunks >= 2


def test_rows_beyond_two_gibibytes_are_put_in_order(large_table):
    chosen = take_in_order(large_table, [39, 0, 39])
    assert chosen["id"].to_pylist() == [39, 0, 39]
    assert [len(image["bytes"].as_py()) for image in chosen["image"]] == [64 << 20] * 3


def test_rows_in_order_are_those_of_take(monkeypatch):
    """Also where only a part of the rows is chosen at a time."""
    monkeypatch.setattr("storage.rows._MAX_JOINED", 0)
    images = [{"bytes": b"%d" % row, "path": None} for row in range(300)]
    table = pa.concat_tables([pa.table({"id": range(300), "image": images})] * 2)
    order = np.random.default_rng(0).integers(0, 600, 1000)
    assert take_in_order(table, order).equals(table.take(order))
    assert take_in_order(table, []).equals(table.take(pa.array([], pa.int64())))
