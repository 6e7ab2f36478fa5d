"""Rows of tables in files: JSON lines, CSV, Parquet and Arrow, of which one damaged row costs no other."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.images.documents import document_rows
from lightgen_core.images.files import Files
from lightgen_core.images.sample import IMAGE_SUFFIXES, codec_of
from lightgen_core.rejected import Reason, Rejected

JSON_SUFFIXES = tuple(f"{name}{packed}" for name in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst"))
CSV_SUFFIXES = tuple(f"{name}{packed}" for name in (".csv", ".tsv") for packed in ("", ".gz", ".zst"))
BATCH = 4096
"""Rows of text read at once."""
IMAGE_BATCH = 16
"""Rows of images read at once."""
_NEWLINES = (b"\n", "\n")
_DELIMITERS = ",\t;|"
_CAPTION_NUMBER = re.compile(r"#\d+$")
"""At the end of a path in Flickr8k.token.txt: which of the image's captions follows."""
_TEXT = (pa.string(), pa.large_string(), pa.string_view())
_ARROW_FILE = b"ARROW1"


class Line(NamedTuple):
    """A line: its number from 1, the byte of the plain text at which it starts, and its bytes; None: too long."""

    number: int
    start: int
    data: bytes | None


@contextmanager
def open_plain(files: Files, name: str) -> Iterator[BinaryIO]:
    """Open a file that may be packed by gzip or Zstandard."""
    with files.open(name) as file:
        if name.lower().endswith(".gz"):
            plain: Any = gzip.GzipFile(fileobj=file)
        elif name.lower().endswith(".zst"):
            plain = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file), "zstd"))
        else:
            plain = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file
        with plain:
            yield plain


def lines(files: Files, name: str, limit: int) -> Iterator[Line]:
    """Yield the lines of a text, UTF-16 with its mark as UTF-8, in bounded memory for any file.

    Of a .json that is one document its rows are lines (`document_rows`); their `start` is their index.

    Raises:
        Rejected: the packed data are damaged.
    """
    try:
        if is_document(name):
            with open_plain(files, name) as file:
                rows = document_rows(file)
            if rows is not None:
                yield from (Line(index + 1, index, json.dumps(row).encode()) for index, row in enumerate(rows))
                return
        with open_plain(files, name) as file:
            yield from _lines(file, limit)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise Rejected(Reason.ARCHIVE_CORRUPT, str(error)) from error


def is_document(name: str) -> bool:
    """Return whether a file may be one JSON document."""
    return ".json" in PurePosixPath(name.lower()).suffixes[-2:]


def _lines(file: BinaryIO, limit: int) -> Iterator[Line]:
    head = file.readline(limit)
    utf16 = codec_of(head) == "utf-16"
    if utf16:
        file.seek(0)
    source: Any = TextIOWrapper(file, "utf-16", "replace", newline="\n") if utf16 else file
    number = start = 0
    while line := source.readline(limit) if utf16 or number else head:
        number += 1
        data = line.encode(errors="replace") if isinstance(line, str) else line
        length = len(data)
        whole = len(line) < limit or line[-1:] in _NEWLINES
        while not whole and (rest := source.readline(limit)):
            length += len(rest.encode(errors="replace") if isinstance(rest, str) else rest)
            whole = rest[-1:] in _NEWLINES
            data = b""
        yield Line(number, start, data or None)
        start += length


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line. Raises Rejected."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Rejected(Reason.CAPTION_ENCODING, f"byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.CAPTION_JSON, str(error)) from error
    if not isinstance(value, dict):
        raise Rejected(Reason.CAPTION_FIELD, f"found JSON {type(value).__name__}, expected an object")
    return value


def csv_rows(files: Files, name: str) -> Iterator[tuple[int, dict[str, str] | Rejected]]:
    """Yield the rows of a CSV with their numbers from 1; the separator is the header's most frequent one.

    Two values of which the first ends as an image does are no header, but `file_name` and `caption` of the first row.

    Raises:
        Rejected: the packed data are damaged.
    """
    with open_plain(files, name) as file:
        codec = codec_of(file.readline())
        file.seek(0)
        try:
            with TextIOWrapper(file, codec, "replace" if codec == "utf-16" else "surrogateescape", newline="") as text:
                yield from _csv_rows(text)
        except (OSError, EOFError, pa.ArrowException, csv.Error) as error:
            raise Rejected(Reason.ARCHIVE_CORRUPT, str(error)) from error


def csv_columns(files: Files, name: str, limit: int) -> list[str]:
    """Return what would be the columns of a file if it were a CSV; [] if its first line is longer than `limit` bytes.

    Raises:
        Rejected: the packed data are damaged.
    """
    first = next((line.data for line in lines(files, name, limit)), None)
    try:
        return _open_csv((first or b"").decode("utf-8-sig", "replace"), ()).columns
    except csv.Error:
        return []


def without_caption_number(path: str) -> str:
    """Return the path of an image without the number of its caption: `a.jpg#0` is `a.jpg`."""
    plain = _CAPTION_NUMBER.sub("", path)
    return plain if _names_image(plain) else path


class _Csv(NamedTuple):
    columns: list[str]
    rows: Iterator[list[str]]


def _open_csv(first: str, rest: Iterable[str]) -> _Csv:
    for delimiter in sorted(_DELIMITERS):  # the tab first: captions hold commas, and paths no tabs
        # Lists of captions with tabs know no quotes: one that opens a caption would swallow the lines until the next.
        plain = delimiter == "\t" and not first.startswith('"')
        dialect: dict[str, Any] = {"delimiter": delimiter, "quoting": csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL}
        row = next(csv.reader([first], **dialect), [])
        if len(row) == 2 and row[1].strip() and _names_image(without_caption_number(row[0].strip())):
            return _Csv(["file_name", "caption"], csv.reader(_chain(first, rest), **dialect))
    reader = csv.reader(_chain(first, rest), delimiter=max(_DELIMITERS, key=first.count))
    return _Csv([column.strip() for column in next(reader, [])], reader)


def _names_image(path: str) -> bool:
    return PurePosixPath(path).suffix[1:].lower() in IMAGE_SUFFIXES


def _csv_rows(text: TextIOWrapper) -> Iterator[tuple[int, dict[str, str] | Rejected]]:
    header, reader = _open_csv(text.readline(), text)
    number = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            number += 1
            yield number, Rejected(Reason.BAD_ROW, str(error))
            continue
        if row is None:
            return
        if not row:
            continue
        number += 1
        if len(row) > len(header):
            detail = f"{len(row)} values for {len(header)} columns: put a caption with the separator in quotes"
            yield number, Rejected(Reason.BAD_ROW, detail)
        else:
            yield number, dict(zip(header, row, strict=False))


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


@dataclass(frozen=True)
class Table:
    """An open Parquet or Arrow file."""

    schema: pa.Schema
    source: Any

    def batches(
        self, columns: Sequence[str], size: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches of some columns, each with the number of its first row; of `rows` those that hold one."""
        first = 0
        wanted = None if rows is None else iter(rows)
        row = next(wanted, None) if wanted else None
        for length, batches in self._groups(columns, size):
            if wanted is not None and (row is None or row >= first + length):
                first += length
                continue
            for batch in batches:
                yield first, batch
                first += len(batch)
            while wanted is not None and row is not None and row < first:
                row = next(wanted, None)

    def _groups(self, columns: Sequence[str], size: int) -> Iterator[tuple[int, Iterable[pa.RecordBatch]]]:
        """Yield the groups of rows: their number and their batches, which are read when they are taken."""
        if isinstance(self.source, pq.ParquetFile):
            for group in range(self.source.num_row_groups):
                batches = self.source.iter_batches(size, row_groups=[group], columns=columns)
                yield self.source.metadata.row_group(group).num_rows, batches
        else:
            for batch in self.source:
                yield len(batch), [batch.select(columns)]


@contextmanager
def open_table(files: Files, name: str) -> Iterator[Table]:
    """Open a Parquet or Arrow file. Raises pyarrow's errors and OSError, also while it is read."""
    with files.open(name, scattered=not name.lower().endswith(".arrow")) as file:
        if file.read(len(_ARROW_FILE)) == _ARROW_FILE:
            reader = pa.ipc.open_file(_arrow_source(file))
            yield Table(reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches)))
            return
        file.seek(0)
        if file.read(4) == b"PAR1" or not name.lower().endswith(".arrow"):
            file.seek(0)
            local = isinstance(file, io.BufferedReader)
            with pq.ParquetFile(file.name if local else file, pre_buffer=not local) as parquet:
                yield Table(parquet.schema_arrow, parquet)
            return
        reader = pa.ipc.open_stream(_arrow_source(file))
        yield Table(reader.schema, reader)


def _arrow_source(file: BinaryIO) -> pa.NativeFile:
    """Return a memory map of a local file, so that columns that are not used are not read."""
    file.seek(0)
    return pa.memory_map(file.name) if isinstance(file, io.BufferedReader) else pa.PythonFile(file)


def table_rows(files: Files, name: str, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows of a Parquet or Arrow file with their numbers from 0: all columns, or those of `columns`."""
    with open_table(files, name) as table:
        present = [column for column in table.schema.names if columns is None or column in columns]
        for first, batch in table.batches(present, BATCH):
            values = [text_values(batch.column(column)) for column in present]
            for offset, row in enumerate(zip(*values, strict=True)):
                yield first + offset, dict(zip(present, row, strict=True))


def text_values(column: pa.Array) -> list[Any]:
    """Return a column's values, strings as bytes (invalid UTF-8 rejects one row), categories as what they stand for."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if _is_list(column.type) and column.type.value_type in _TEXT:
        column = column.cast(pa.large_list(pa.large_binary()))
    return (column.cast(pa.large_binary()) if column.type in _TEXT else column).to_pylist()


def is_bytes(arrow_type: pa.DataType) -> bool:
    """Return whether values are text or bytes, also those of a dictionary (categories)."""
    plain = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    return plain in (*_TEXT, pa.binary(), pa.large_binary(), pa.binary_view()) or pa.types.is_fixed_size_binary(plain)


def is_caption(arrow_type: pa.DataType) -> bool:
    """Return whether values are texts or lists of texts."""
    return is_bytes(arrow_type) or (_is_list(arrow_type) and is_bytes(arrow_type.value_type))


def is_image(arrow_type: pa.DataType) -> bool:
    """Return whether values may be images: bytes, text, or an Image feature (a struct of bytes and path)."""
    if pa.types.is_struct(arrow_type):
        return arrow_type.get_field_index("bytes") >= 0 or arrow_type.get_field_index("path") >= 0
    return is_bytes(arrow_type)


def _is_list(arrow_type: pa.DataType) -> bool:
    return pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type) or pa.types.is_fixed_size_list(arrow_type)
