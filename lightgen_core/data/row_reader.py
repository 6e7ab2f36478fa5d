"""Single rows out of many Parquet files, in any order: an index of a few bytes a row, and reads of just those bytes.

A value's offset follows from the end of its row group's values and the lengths of those behind it, so the index holds
the id and the running count of text tokens of each row, 16 bytes, and little for each row group. Values are copied out
of memory maps, and prefetched before, so that the disk reads the rows and no more, many at once.
"""

import mmap
import struct
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from lightgen_core.data.parquet_pages import LENGTH_PREFIX_BYTES
from lightgen_core.data.rewrite import rewrite_plain
from lightgen_core.data.token_file import CAPTION_ID, DataError, TokenFile, check_sizes, open_token_file, wrong_size

MAPPED_FILES = 256
"""Maximal files that a set keeps mapped and open: those used last."""

SMALL = 1 << 30
"""Bytes of files below which all are prefetched at once."""

_OPENING_THREADS = 8
_LENGTH = struct.Struct("<I")


class RowReader:
    """The rows of a set, numbered in the order of its files. It can be pickled, forked, and read by many threads.

    Attributes:
        layout: of every file.
        ids: (rows,) int64.
        caption_ids: by column, (rows,) int64, the ids of rows of text; empty where each row holds its own.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        columns: Sequence[str],
        scratch: Path | None = None,
        captions: Sequence[str] = (CAPTION_ID,),
    ):
        """Open the files: read footers, page headers and two small columns.

        Args:
            files: local Parquet files, in the order that numbers the rows.
            scratch: folder for copies of files in another layout, kept for the next time; None: a temporary one.
            captions: columns of ids of rows of text, of files without text.

        Raises:
            DataError: no rows, missing columns or metadata, files that differ in layout, a row of the wrong size.
        """
        self._index(*_open(files, columns, scratch, captions), MAPPED_FILES)

    @classmethod
    def of_each_shape(
        cls,
        files: Sequence[str | Path],
        columns: Sequence[str],
        scratch: Path | None = None,
        captions: Sequence[str] = (CAPTION_ID,),
    ) -> list[Self]:
        """Return a reader for each shape of latents that has rows, by ascending (height, width).

        The rows of a shape are numbered in the order of `files`. Arguments and errors as of a reader; files may differ
        in height and width alone.
        """
        pieces, temporary = _open(files, columns, scratch, captions)
        for piece in pieces:
            _check_layout(piece, pieces[0], shapes_may_differ=True)
        shapes = sorted({(piece.layout.height, piece.layout.width) for piece in pieces if len(piece.ids)})
        readers = []
        for shape in shapes:
            of_shape = [piece for piece in pieces if (piece.layout.height, piece.layout.width) == shape]
            readers.append(cls.__new__(cls))
            readers[-1]._index(of_shape, temporary, max(1, MAPPED_FILES // len(shapes)))
        return readers

    def _index(
        self, pieces: Sequence[TokenFile], temporary: tempfile.TemporaryDirectory | None, mapped_files: int
    ) -> None:
        """Fill this reader from open files of one layout."""
        self.layout, columns = pieces[0].layout, list(pieces[0].ranges)
        for piece in pieces:
            _check_layout(piece, pieces[0])
        self._temporary, self._mapped_files = temporary, mapped_files
        self.ids = np.concatenate([piece.ids for piece in pieces])
        self.caption_ids = {
            name: np.concatenate([piece.caption_ids[name] for piece in pieces]) for name in pieces[0].caption_ids
        }
        self._text_starts = np.concatenate([[0], *(piece.text_lengths for piece in pieces)]).cumsum()
        self._group_starts = np.concatenate([[0], *(piece.groups for piece in pieces)]).cumsum()
        self._ends = {name: np.concatenate([piece.ranges[name][:, 1] for piece in pieces]) for name in columns}
        self._files = [(str(piece.file), piece.file.stat().st_size) for piece in pieces]
        self._group_files = np.repeat(np.arange(len(pieces)), [len(piece.groups) for piece in pieces])
        self._map = lru_cache(mapped_files)(_mapped)
        self._small = sum(size for _, size in self._files) < SMALL
        for file in self._files if self._small else ():
            self._map(*file).madvise(mmap.MADV_WILLNEED)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_map", "_temporary")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._map = lru_cache(self._mapped_files)(_mapped)

    def __len__(self) -> int:
        return len(self.ids)

    def text_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of text tokens of each row."""
        return self._text_starts[rows + 1] - self._text_starts[rows]

    def read(self, column: str, rows: np.ndarray, into: np.ndarray) -> None:
        """Copy the values of a column into (rows, bytes) uint8, C-contiguous, padded with zeros.

        Raises:
            DataError: a value has another length than the layout gives it, or its file was cut off.
        """
        for row, (file, offset, size) in enumerate(self._offsets(column, rows)):
            values = self._map(*file)
            (length,) = _LENGTH.unpack_from(values, offset)
            if length != size:
                raise wrong_size(file[0], column, self.ids[rows[row]], length, size, self.layout)
            into[row, :size] = np.frombuffer(values, np.uint8, size, offset + LENGTH_PREFIX_BYTES)
            into[row, size:] = 0

    def prefetch(self, rows: np.ndarray) -> None:
        """Make the operating system load these rows, many at a time; small sets are loaded as a whole."""
        if self._small:
            return
        for column in self._ends:
            for file, offset, size in self._offsets(column, rows):
                start = offset // mmap.PAGESIZE * mmap.PAGESIZE
                self._map(*file).madvise(mmap.MADV_WILLNEED, start, offset + LENGTH_PREFIX_BYTES + size - start)

    def _offsets(self, column: str, rows: np.ndarray) -> Iterator[tuple[tuple[str, int], int, int]]:
        """Return file, offset of the value's length in it, and size of the value, for each row."""
        sizes = self.layout.bytes_of(column, 1, self.text_lengths(rows))
        groups = np.searchsorted(self._group_starts, rows, side="right") - 1
        behind = self._group_starts[groups + 1]  # the first row that is not in the group
        count, tokens = behind - rows, self._text_starts[behind] - self._text_starts[rows]
        offsets = self._ends[column][groups] - LENGTH_PREFIX_BYTES * count - self.layout.bytes_of(column, count, tokens)
        files = map(self._files.__getitem__, self._group_files[groups].tolist())
        return zip(files, offsets.tolist(), sizes.tolist(), strict=True)


def _open(
    files: Sequence[str | Path], columns: Sequence[str], scratch: Path | None, captions: Sequence[str]
) -> tuple[list[TokenFile], tempfile.TemporaryDirectory | None]:
    """Open files, or copies of those in another layout; also return the folder that ends with the last reader."""
    temporary = None
    with ThreadPoolExecutor(_OPENING_THREADS, thread_name_prefix="opening") as threads:
        pieces = list(threads.map(lambda file: open_token_file(Path(file), columns, captions), files))
        if other := [piece for piece in pieces if not piece.ranges]:
            if scratch is None:
                temporary = tempfile.TemporaryDirectory(prefix="lightgen-rows-")
                scratch = Path(temporary.name)
            copies = rewrite_plain(other, columns, scratch, captions)
            pieces = [p if p.ranges else open_token_file(copies[p.file], columns, captions) for p in pieces]
        list(threads.map(check_sizes, pieces))
    if not any(len(piece.ids) for piece in pieces):
        raise DataError("the token files hold no rows; the stage that wrote them dropped everything")
    return pieces, temporary


def _check_layout(piece: TokenFile, first: TokenFile, *, shapes_may_differ: bool = False) -> None:
    """Raise DataError if two files differ in layout."""
    layout, expected = piece.layout, first.layout
    if shapes_may_differ:
        names = ("height", "width", "feature_height", "feature_width")
        layout = replace(layout, **{name: getattr(expected, name) for name in names})
    if layout != expected:
        raise DataError(f"{piece.file} holds {piece.layout}, {first.file} {first.layout}; train on one kind")


def _mapped(file: str, size: int) -> mmap.mmap:
    """Map a file into memory; DataError if its size has changed."""
    with open(file, "rb") as opened:
        values = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if len(values) != size:
        raise DataError(f"{file} has {len(values)} bytes; when it was opened it had {size}: make it again")
    return values
