"""Some rows of an artifact's tables, without reading the rest: what a few pictures of two million cost."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact

_AT_ONCE = 64
"""Rows decoded at once: a row of tokens or a picture can be a megabyte."""


def take_rows(artifact: Artifact, pattern: str, rows: npt.ArrayLike, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of the files whose name matches, by their places in all of them, laid end to end.

    Only the row groups that hold one of them are read, a few rows at a time; memory holds little beyond the answer.

    Args:
        artifact: a finished one.
        pattern: regular expression for the names of the files.
        rows: places in rising order, each once.
        columns: by name; None for all.

    Raises:
        IndexError: a place beyond the last row.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    if len(wanted) and (wanted[0] < 0 or (np.diff(wanted) <= 0).any()):
        raise ValueError("rows are to be asked for in rising order, each once")
    taken: list[pa.RecordBatch] = []
    kinds, start = pa.schema([]), 0
    for name in artifact.names(pattern):
        with artifact.open(name) as stream:
            file = pq.ParquetFile(stream)
            kinds = file.schema_arrow
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if len(_between(wanted, start, stop)):
                    for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=columns):
                        inside = batch.take(_between(wanted, start, start + len(batch)) - start)
                        taken.append(inside.select(columns) if columns else inside)
                        start += len(batch)
                start = stop
    if len(wanted) and wanted[-1] >= start:
        raise IndexError(f"row {wanted[-1]} was asked for; {artifact.uri} has {start} rows in {pattern!r}")
    if columns is not None:
        kinds = pa.schema([kinds.field(name) for name in columns], metadata=kinds.metadata)
    return pa.Table.from_batches(taken, kinds)


def _between(wanted: npt.NDArray[np.int64], start: int, stop: int) -> npt.NDArray[np.int64]:
    """Those of rising places from `start` on and before `stop`."""
    first, last = np.searchsorted(wanted, [start, stop])
    return wanted[first:last]
