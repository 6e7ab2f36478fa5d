"""Copies of token files in a layout that the reader can address, for files that other tools or versions wrote."""

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.data.token_file import CAPTION_ID, DataError, TokenFile, small_columns

logger = logging.getLogger(__name__)

_ROWS = 64
"""Rows held in memory at once, and of a row group of the copy."""


def rewrite_plain(
    pieces: Sequence[TokenFile], columns: Sequence[str], folder: Path, captions: Sequence[str] = (CAPTION_ID,)
) -> dict[Path, Path]:
    """Return by file a copy of its small columns and columns of values in plain pages.

    A copy is named after the file's path, size and time of change, and reused. It appears whole or not at all, so
    processes may share the folder.

    Raises:
        DataError: a column does not hold bytes, or the folder's disk has no room.
    """
    copies = {
        piece.file: folder / f"{piece.file.stem}-{_identity(piece.file, (*columns, *captions))}.parquet"
        for piece in pieces
    }
    missing = [piece for piece in pieces if not copies[piece.file].exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        size = _check_room(missing, columns, folder) / 2**30
        logger.info(
            "%d token files are compressed or cut into pages; copying what training reads of them (%.1f GiB) to %s",
            len(missing),
            size,
            folder,
        )
    for file in (piece.file for piece in missing):
        partial = copies[file].with_suffix(f".{os.getpid()}.partial")
        try:
            _copy(file, columns, partial, captions)
            partial.replace(copies[file])
        finally:
            partial.unlink(missing_ok=True)
    return copies


def _identity(file: Path, columns: Sequence[str]) -> str:
    state = file.stat()
    identity = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {sorted(columns)}"
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


def _check_room(pieces: Sequence[TokenFile], columns: Sequence[str], folder: Path) -> int:
    """Return the bytes of the files' values; DataError if the folder's disk has fewer."""
    sizes = ((piece.layout, len(piece.ids), piece.text_lengths.sum()) for piece in pieces)
    needed = sum(int(layout.bytes_of(column, rows, tokens)) for layout, rows, tokens in sizes for column in columns)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{len(pieces)} token files of another layout need copies of {needed / 2**30:.1f} GiB in {folder}, where "
            f"{free / 2**30:.1f} GiB are left; make room, or write them again with the tokens stage of this version"
        )
    return needed


def _copy(file: Path, columns: Sequence[str], target: Path, captions: Sequence[str]) -> None:
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False, "data_page_size": 1 << 30}
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
        small = [(name, pa.int64()) for name in small_columns(columns, captions)]
        fields = small + [(name, pa.large_binary()) for name in columns]
        schema = pa.schema(fields, metadata=parquet.schema_arrow.metadata)
        with pq.ParquetWriter(target, schema, **plain) as writer:
            for batch in parquet.iter_batches(_ROWS, columns=schema.names):
                try:
                    writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise DataError(f"{file}: columns {', '.join(columns)} should hold bytes; {error}") from error
