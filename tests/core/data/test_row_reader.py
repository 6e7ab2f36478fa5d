"""Rows straight from Parquet files: their values, their copies, and errors that name the file."""

import itertools
import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightgen_core.data import row_reader as rows_module
from lightgen_core.data.batches import DataError, TokenSource
from lightgen_core.data.parquet_pages import plain_ranges
from lightgen_core.data.row_reader import RowReader
from storage.tables import ROW_GROUP_BYTES, schema, to_parquet
from tests.factories.tiny_student import LAYOUT, PATCH, TEXT_WIDTH, write_rows

COLUMNS = ("latents", "text")


def values_of(rows: RowReader, column: str) -> list[bytes]:
    """All values of a column, by way of the reader, in an order that is not the file's."""
    order = np.random.default_rng(0).permutation(len(rows))
    sizes = rows.layout.bytes_of(column, 1, rows.text_lengths(order))
    into = np.full((len(rows), sizes.max() + 3), 7, dtype=np.uint8)
    rows.read(column, order, into)
    assert not any(into[place, size:].any() for place, size in enumerate(sizes))
    found = {row: into[place, : sizes[place]].tobytes() for place, row in enumerate(order)}
    return [found[row] for row in range(len(rows))]


def as_kind(table: pa.Table, kind: pa.DataType, nullable: bool) -> pa.Table:
    fields = [
        pa.field(f.name, kind if f.name in COLUMNS else f.type, nullable=nullable, metadata=f.metadata)
        for f in table.schema
    ]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


WRITTEN = [
    dict(zip(("compression", "use_dictionary", "data_page_version"), choice, strict=True))
    | {"row_group_size": group, "data_page_size": page, "write_batch_size": 4}
    for choice, (group, page) in itertools.product(
        itertools.product(("none", "snappy", "zstd"), (False, True), ("1.0", "2.0")), ((100, 1 << 20), (7, 64))
    )
]


@pytest.mark.parametrize("nullable", [False, True])
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize("how", WRITTEN, ids=lambda how: "-".join(map(str, how.values())))
def test_every_layout_gives_the_values_that_parquet_gives(tmp_path, how, kind, nullable):
    table = as_kind(pq.read_table(write_rows(tmp_path / "all.parquet", rows=40)), kind, nullable)
    files = [tmp_path / f"{name}.parquet" for name in "abc"]
    for file, start, stop in zip(files, (0, 12, 13), (12, 13, 40), strict=True):
        pq.write_table(table.slice(start, stop - start), file, **how)
    rows = RowReader(files, COLUMNS, tmp_path / "scratch")
    assert rows.ids.tolist() == table["id"].to_pylist()
    for column in COLUMNS:
        assert values_of(rows, column) == table[column].to_pylist()


@pytest.mark.parametrize(
    ("how", "plain"),
    [
        ({"compression": "none", "use_dictionary": False}, True),
        ({"compression": "none", "use_dictionary": False, "write_page_checksum": True}, True),
        ({"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}, False),
        ({"compression": "none", "use_dictionary": False, "data_page_size": 64, "write_batch_size": 4}, False),
        ({"compression": "none", "use_dictionary": False, "use_byte_stream_split": False, "row_group_size": 3}, True),
        ({"compression": "none", "column_encoding": {"text": "DELTA_BYTE_ARRAY"}, "use_dictionary": False}, False),
        ({"compression": "none"}, False),
        ({"compression": "zstd", "use_dictionary": False}, False),
    ],
)
def test_only_unaddressable_files_are_copied_and_only_once(tmp_path, how, plain):
    file, scratch = tmp_path / "a.parquet", tmp_path / "scratch"
    table = pq.read_table(write_rows(tmp_path / "all.parquet", rows=20))
    pq.write_table(table, file, **how)
    first = RowReader([file], COLUMNS, scratch)
    copies = [(copy, copy.stat().st_mtime_ns) for copy in scratch.glob("*")]
    second = RowReader([file], COLUMNS, scratch)
    assert len(copies) == (0 if plain else 1)
    assert copies == [(copy, copy.stat().st_mtime_ns) for copy in scratch.glob("*")]
    assert values_of(first, "text") == values_of(second, "text") == table["text"].to_pylist()


def test_a_temporary_copy_goes_with_its_source(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    table = pq.read_table(write_rows(tmp_path / "all.parquet", rows=5))
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    source = RowReader([tmp_path / "a.parquet"], COLUMNS)
    assert len(list((tmp_path / "temporary").glob("*/*.parquet"))) == 1
    del source
    assert not list((tmp_path / "temporary").iterdir())


def test_files_of_the_tokens_stage_are_addressed_without_a_copy(tmp_path):
    """Other readers of Parquet read them too."""
    kinds = {
        "id": pa.int64(),
        "caption": pa.string(),
        "latents": pa.binary(),
        "text": pa.binary(),
        "text_length": pa.int32(),
    }
    rng, rows = np.random.default_rng(0), 3000
    words = rng.integers(1, 5, rows)
    columns = {
        "id": np.arange(rows),
        "caption": ["a red circle"] * rows,
        "latents": [rng.bytes(144) for _ in range(rows)],
        "text": [rng.bytes(int(count) * 2 * TEXT_WIDTH) for count in words],
        "text_length": words,
    }
    table = pa.table(columns).cast(schema(kinds, LAYOUT))
    file = tmp_path / "tokens.parquet"
    file.write_bytes(to_parquet(table))
    metadata = pq.read_metadata(file)
    assert metadata.num_row_groups == 3
    assert {name: tuple(found.shape) for name, found in plain_ranges(file, metadata, COLUMNS).items()} == {
        "latents": (3, 2),
        "text": (3, 2),
    }
    assert metadata.row_group(0).column(1).compression == "ZSTD"
    assert pq.read_table(file).equals(table)
    assert values_of(RowReader([file], COLUMNS, tmp_path / "scratch"), "latents") == columns["latents"]
    assert not (tmp_path / "scratch").exists()


def test_a_row_group_takes_no_more_than_its_bytes():
    value = b"\0" * (ROW_GROUP_BYTES // 10)
    written = pq.read_metadata(pa.BufferReader(to_parquet(pa.table({"latents": [value] * 25}))))
    assert [written.row_group(group).num_rows for group in range(written.num_row_groups)] == [9, 9, 7]


def test_two_wrong_sizes_that_cancel_are_noticed_on_reading(tmp_path):
    latents = [b"\0" * 144, b"\0" * 142, b"\0" * 146]
    file = write_rows(tmp_path / "a.parquet", rows=3, latents=latents)
    source = TokenSource([file], patch=PATCH, batch_size=3, seed=0)
    with pytest.raises(DataError, match=r"a\.parquet: latents of row 10[12] has .*; expected 144 bytes"):
        source.batch(0)


def test_a_null_is_named(tmp_path):
    file = write_rows(tmp_path / "a.parquet", rows=3, latents=[b"\0" * 144, None, b"\0" * 144])
    with pytest.raises(DataError, match="latents of row 101 has no value; expected 144"):
        RowReader([file], COLUMNS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": [[1.0]] * 2}, "should hold bytes"),
        ({"text_length": np.array([1.5, 2.0])}, "column text_length is double with 0 nulls; expected integers"),
        ({"text_length": pa.array([1, None])}, "column text_length is int64 with 1 nulls"),
    ],
)
def test_columns_of_another_type_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        RowReader([write_rows(tmp_path / "a.parquet", rows=2, **changes)], COLUMNS)


def test_files_of_two_layouts_are_refused_together(tmp_path):
    files = [write_rows(tmp_path / "a.parquet", rows=2)]
    files += [write_rows(tmp_path / "b.parquet", rows=2, layout=LAYOUT | {"dtype": "bfloat16"})]
    with pytest.raises(DataError, match=r"b\.parquet holds .*bfloat16.*; train on one kind"):
        RowReader(files, COLUMNS)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a\.parquet is not a Parquet file"):
        RowReader([tmp_path / "a.parquet"], COLUMNS)


def test_a_file_that_was_cut_off_since_is_named(tmp_path):
    source = pickle.loads(pickle.dumps(RowReader([write_rows(tmp_path / "a.parquet", rows=9)], COLUMNS)))
    os.truncate(tmp_path / "a.parquet", 100)
    with pytest.raises(DataError, match=r"a\.parquet has 100 bytes; when it was opened"):
        values_of(source, "latents")


def test_a_disk_without_room_for_copies_is_refused_beforehand(tmp_path, monkeypatch):
    """Nothing is written."""
    table = pq.read_table(write_rows(tmp_path / "all.parquet", rows=5))
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DataError, match="need copies of"):
        RowReader([tmp_path / "a.parquet"], COLUMNS, tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


def test_many_threads_read_more_files_than_may_stay_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MAPPED_FILES", 3)
    monkeypatch.setattr(rows_module, "SMALL", 0)  # every batch is announced
    table = pq.read_table(write_rows(tmp_path / "all.parquet", rows=40))
    files = [tmp_path / f"{number}.parquet" for number in range(20)]
    for number, file in enumerate(files):
        pq.write_table(table.slice(2 * number, 2), file, compression="none", use_dictionary=False)
    source = TokenSource(files, patch=PATCH, batch_size=8, seed=0)
    single = [source.batch(step) for step in range(10)]
    with ThreadPoolExecutor(4) as threads:
        many = list(threads.map(source.batch, range(10)))
    assert all(a.tokens.equal(b.tokens) and a.text.equal(b.text) for a, b in zip(single, many, strict=True))
    maps = Path("/proc/self/maps").read_text()
    assert 1 <= sum(f"{file}\n" in maps for file in files) <= 3


def test_a_source_can_be_pickled_and_forked(tmp_path):
    source = TokenSource([write_rows(tmp_path / "a.parquet", rows=10)], patch=PATCH, batch_size=4, seed=0)
    expected = source.batch(3)
    assert pickle.loads(pickle.dumps(source)).batch(3).tokens.equal(expected.tokens)
    child = os.fork()
    if child == 0:
        os._exit(0 if source.batch(3).tokens.equal(expected.tokens) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_epoch_takes_a_small_part_of_the_sets_memory(tmp_path):
    """96 MB are read within 12 MB of private memory: an index, and a batch or two of 1.2 MB."""
    layout = {"dtype": "float16", "channels": 16, "height": 32, "width": 32, "text_width": 64}
    rng, files = np.random.default_rng(0), []
    for number in range(6):
        columns = {
            "id": np.arange(400),
            "text_length": np.full(400, 64, dtype=np.int32),
            "latents": [rng.bytes(32768) for _ in range(400)],
            "text": [rng.bytes(8192) for _ in range(400)],
        }
        table = pa.table(columns).replace_schema_metadata({"lightgen": json.dumps(layout)})
        files.append(tmp_path / f"{number}.parquet")
        files[-1].write_bytes(to_parquet(table))
    del columns, table
    before = private_bytes()
    source = TokenSource(files, patch=2, batch_size=32, seed=0)
    most = 0
    for step in range(source.rows // 32):
        assert source.batch(step).tokens.shape == (32, 256, 64)
        most = max(most, private_bytes())
    assert sum(file.stat().st_size for file in files) > 96e6
    assert most - before < 12e6


def private_bytes() -> int:
    """Memory of this process that is not of files."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
