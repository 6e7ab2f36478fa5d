"""Selected rows of an artifact's tables, without reading the rest."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact

_BATCH_ROWS = 64
"""Rows decoded at once: a row of tokens or an image can be a megabyte."""

_MAX_JOINED = 1 << 30
"""Bytes of a table whose chunks may be joined: half of what an array of binary values holds."""


def take_rows(artifact: Artifact, pattern: str, rows: npt.ArrayLike, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of matching files by index over all of them, end to end.

    Only row groups with such a row are read, a few rows at a time; memory holds little beyond the result.

    Raises:
        IndexError: an index beyond the last row.
        ValueError: indices that are not ascending and unique.
    """
    indices = np.asarray(rows, dtype=np.int64)
    if len(indices) and (indices[0] < 0 or (np.diff(indices) <= 0).any()):
        raise ValueError("rows are to be asked for in rising order, each once")
    batches: list[pa.RecordBatch] = []
    schema, start = pa.schema([]), 0
    for name in artifact.names(pattern):
        with artifact.open(name) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if len(_between(indices, start, stop)):
                    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        selected = batch.take(_between(indices, start, start + len(batch)) - start)
                        batches.append(selected.select(columns) if columns else selected)
                        start += len(batch)
                start = stop
    if len(indices) and indices[-1] >= start:
        raise IndexError(f"row {indices[-1]} was asked for; {artifact.uri} has {start} rows in {pattern!r}")
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)
    return pa.Table.from_batches(batches, schema)


def rows_at(table: pa.Table, positions: npt.ArrayLike) -> pa.Table:
    """Return a table's rows at ascending positions, chunk by chunk.

    `Table.take` joins a column's chunks first, which beyond 2 GiB of binary values is an error.
    """
    chosen = np.zeros(len(table), bool)
    chosen[np.asarray(positions, dtype=np.int64)] = True
    return table.filter(pa.array(chosen))


def take_in_order(table: pa.Table, positions: npt.ArrayLike) -> pa.Table:
    """Return a table's rows at positions in any order, with repeats; a large table's in chunks of a few rows each."""
    indices = np.asarray(positions, dtype=np.int64)
    if table.nbytes * max(1.0, len(indices) / max(1, len(table))) <= _MAX_JOINED:
        return table.take(indices)
    parts = [table.slice(0, 0)]
    for start in range(0, len(indices), _BATCH_ROWS):
        rows, places = np.unique(indices[start : start + _BATCH_ROWS], return_inverse=True)
        parts.append(rows_at(table, rows).take(places))
    return pa.concat_tables(parts)


def _between(indices: npt.NDArray[np.int64], start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return those of ascending indices in `[start, stop)`."""
    first, last = np.searchsorted(indices, [start, stop])
    return indices[first:last]
