"""Single rows out of many Parquet files, in any order: an index of a few bytes a row, and reads of just those bytes.

A value's place follows from where its row group's values end and from the lengths of those behind it, so the index
holds the id and the running count of words of each row, 16 bytes, and little for each row group. Reading is `preadv`,
not a memory map: with a warm page cache the two cost about the same; from a cold disk a map reads several times the
bytes, because the kernel reads around every fault, and where a file was cut off meanwhile it ends the process.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lightgen_core.train.pages import PREFIX
from lightgen_core.train.parquet import DataError, check_sizes, read_piece, wrong_size
from lightgen_core.train.relayout import plain_copies

OPEN_FILES = 256
"""Descriptors that a set keeps open; of more files, those used last."""

_OPENING_THREADS = 8
_ADVICE = hasattr(os, "posix_fadvise")  # macOS has none


class Rows:
    """The rows of a set, numbered in the order of its files. It can be pickled, forked, and read by many threads."""

    def __init__(self, files: Sequence[str | Path], columns: Sequence[str], scratch: Path | None = None):
        """Opens the files: reads footers, page headers and two small columns.

        Args:
            files: local Parquet files, in the order that numbers the rows.
            columns: the columns of values to read.
            scratch: folder for copies of files in another layout, kept for the next time; None: a temporary one.

        Raises:
            DataError: no rows, missing columns or metadata, files that differ in layout, a row of the wrong size.
        """
        self._temporary: tempfile.TemporaryDirectory | None = None
        with ThreadPoolExecutor(_OPENING_THREADS, thread_name_prefix="opening") as threads:
            pieces = list(threads.map(lambda file: read_piece(Path(file), columns), files))
            if other := [piece for piece in pieces if not piece.ranges]:
                if scratch is None:
                    self._temporary = tempfile.TemporaryDirectory(prefix="lightgen-rows-")
                    scratch = Path(self._temporary.name)
                copies = plain_copies(other, columns, scratch)
                pieces = [piece if piece.ranges else read_piece(copies[piece.file], columns) for piece in pieces]
            list(threads.map(check_sizes, pieces))
        if not any(len(piece.ids) for piece in pieces):
            raise DataError("the token files hold no rows; the stage that wrote them dropped everything")
        self.layout = pieces[0].layout
        for piece in pieces:
            if piece.layout != self.layout:
                raise DataError(f"{piece.file} holds {piece.layout}, {pieces[0].file} {self.layout}; train on one kind")
        self.ids = np.concatenate([piece.ids for piece in pieces])
        self._word_starts = np.concatenate([[0], *(piece.words for piece in pieces)]).cumsum()
        self._group_starts = np.concatenate([[0], *(piece.groups for piece in pieces)]).cumsum()
        self._ends = {name: np.concatenate([piece.ranges[name][:, 1] for piece in pieces]) for name in columns}
        self._files = np.repeat(np.arange(len(pieces)), [len(piece.groups) for piece in pieces])
        self._open = _Open([str(piece.file) for piece in pieces])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_temporary": None}

    def __len__(self) -> int:
        return len(self.ids)

    def words(self, rows: np.ndarray) -> np.ndarray:
        """Words of each row."""
        return self._word_starts[rows + 1] - self._word_starts[rows]

    def read(self, column: str, rows: np.ndarray, into: np.ndarray) -> None:
        """Copies the values of a column into (rows, bytes) uint8, C-contiguous; what is left of each row becomes zeros.

        Raises:
            DataError: a value has another length than the layout gives it, or its file was cut off.
        """
        sizes = self.layout.bytes_of(column, 1, self.words(rows))
        found = np.zeros(len(rows), dtype="<u4")
        lengths, values, width = found.data.cast("B"), into.data.cast("B"), into.shape[1]
        for row, (file, place, size) in enumerate(self._places(column, rows, sizes)):
            length = lengths[row * PREFIX : (row + 1) * PREFIX]
            value = values[row * width : row * width + size]
            opened = self._open[file]  # held here, so that no other thread closes it
            if os.preadv(opened.number, (length, value), place) != PREFIX + size:
                raise DataError(f"{self._open.files[file]} was cut off after it was opened; make it again")
            if size < width:
                into[row, size:] = 0
        for wrong in np.flatnonzero(found != sizes):
            name = self._open.files[self._files[self._groups(rows[wrong])]]
            raise wrong_size(name, column, self.ids[rows[wrong]], int(found[wrong]), int(sizes[wrong]), self.layout)

    def announce(self, rows: np.ndarray) -> None:
        """Tells the operating system that these rows are read soon: it loads them at once, many at a time."""
        if not _ADVICE:
            return
        for column in self._ends:
            sizes = self.layout.bytes_of(column, 1, self.words(rows))
            for file, place, size in self._places(column, rows, sizes):
                opened = self._open[file]
                os.posix_fadvise(opened.number, place, PREFIX + size, os.POSIX_FADV_WILLNEED)

    def _groups(self, rows: np.ndarray) -> np.ndarray:
        """The row group of each row, counted through all files."""
        return np.searchsorted(self._group_starts, rows, side="right") - 1

    def _places(self, column: str, rows: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """File number, offset of the value's length in it, and size of the value, for each row."""
        groups = self._groups(rows)
        behind = self._group_starts[groups + 1]  # the first row that is not in the group
        count, words = behind - rows, self._word_starts[behind] - self._word_starts[rows]
        offsets = self._ends[column][groups] - PREFIX * count - self.layout.bytes_of(column, count, words)
        return zip(self._files[groups].tolist(), offsets.tolist(), sizes.tolist(), strict=True)


class _Descriptor:
    """A file opened for reading, closed when nobody holds it any longer."""

    def __init__(self, file: str):
        self.number = os.open(file, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Open:
    """Files by number, the last few kept open."""

    def __init__(self, files: list[str]):
        self.files = files
        self._opened = lru_cache(OPEN_FILES)(_Descriptor)

    def __getitem__(self, number: int) -> _Descriptor:
        return self._opened(self.files[number])

    def __reduce__(self) -> tuple:
        return _Open, (self.files,)
