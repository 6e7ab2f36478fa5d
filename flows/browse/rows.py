"""Columns of an artifact's tables, and single images out of them, without reading the rest."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.browse.catalogue import Known

CACHE_BYTES = 256 << 20
"""Encoded images kept in memory, by row groups."""


class RowGroup(NamedTuple):
    """A row group of a file, and the rows that it holds, counted over all files of a table."""

    file: str
    group: int
    start: int
    stop: int


def read_columns(known: Known, pattern: str, columns: Sequence[str]) -> pa.Table | None:
    """Return those columns of an artifact's files that exist, or None if there is no such file."""
    tables = []
    for name in known.artifact.names(pattern):
        with open_parquet(known, name) as file:
            wanted = [column for column in columns if column in file.schema_arrow.names]
            tables.append(file.read(columns=wanted))
    return pa.concat_tables(tables).combine_chunks() if tables else None


@contextmanager
def open_parquet(known: Known, name: str, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file of an artifact: mapped into memory where it is local, so that nothing is copied through Python."""
    if known.artifact.store.local_path("") is not None:
        path = known.artifact.local(name, Path())  # a local store copies nothing
        with pq.ParquetFile(path, metadata=footer, memory_map=True) as file:
            yield file
    else:
        with known.artifact.open(name) as stream:
            yield pq.ParquetFile(stream, metadata=footer)


class ImageReader:
    """Reads encoded images by position. A row group is read once and kept while `CACHE_BYTES` last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading: dict[tuple[str, ...], threading.Lock] = {}
        self._layouts: dict[tuple[str, ...], list[RowGroup]] = {}
        self._footers: dict[tuple[str, ...], pq.FileMetaData] = {}
        self._groups: OrderedDict[tuple[str, ...], pa.Array] = OrderedDict()
        self._bytes = 0

    def read(self, known: Known, pattern: str, column: str, position: int) -> bytes | None:
        """Return the bytes of one image; None if its row holds none. Raises IndexError beyond the last row."""
        groups = self._layout(known, pattern)
        index = int(np.searchsorted([group.stop for group in groups], position, side="right"))
        if position < 0 or index == len(groups):
            raise IndexError(f"{known.artifact.path} has no row {position}")
        group = groups[index]
        return self._values(known, group, column)[position - group.start].as_py()

    def _layout(self, known: Known, pattern: str) -> list[RowGroup]:
        key = (known.artifact.path, known.version, pattern)
        if key not in self._layouts:
            groups: list[RowGroup] = []
            for name in known.artifact.names(pattern):
                footer = self._footer(known, name)
                for group in range(footer.num_row_groups):
                    start = groups[-1].stop if groups else 0
                    groups.append(RowGroup(name, group, start, start + footer.row_group(group).num_rows))
            self._layouts[key] = groups
        return self._layouts[key]

    def _footer(self, known: Known, name: str) -> pq.FileMetaData:
        key = (known.artifact.path, known.version, name)
        if key not in self._footers:
            with open_parquet(known, name) as file:
                self._footers[key] = file.metadata
        return self._footers[key]

    def _values(self, known: Known, group: RowGroup, column: str) -> pa.Array:
        key = (known.artifact.path, known.version, group.file, str(group.group), column)
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:  # of many requests for a group one reads it
            with self._lock:
                if key in self._groups:
                    self._groups.move_to_end(key)
                    return self._groups[key]
            with open_parquet(known, group.file, self._footer(known, group.file)) as file:
                table = file.read_row_group(group.group, columns=[f"{column}.bytes"])
            values = table[column].combine_chunks().field("bytes")
            with self._lock:
                self._keep(key, values)
            return values

    def _keep(self, key: tuple[str, ...], values: pa.Array) -> None:
        self._groups[key] = values
        self._bytes += values.nbytes
        while self._bytes > CACHE_BYTES and len(self._groups) > 1:
            old, dropped = self._groups.popitem(last=False)
            self._bytes -= dropped.nbytes
            self._reading.pop(old, None)
