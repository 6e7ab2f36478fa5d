"""Captions from files: one a line, fields of JSON lines, a column of Parquet or of a Hugging Face dataset.

What is damaged is handed on with its reason; only a source that cannot be used at all raises.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption
from lightgen_core.images.image_set import CAPTION_FIELDS, ImageSetError, open_set
from lightgen_core.images.sample import Sample
from lightgen_core.rejected import Rejected

TOPIC = "captions"
"""Topic of captions that name none."""

_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_LINE_BYTES = 1 << 20
_EXCERPT = 200  # characters of a damaged line that are kept
_BATCH = 4096


class CaptionFileError(ValueError):
    """A source of captions that is not there, or not of the form that the recipe says."""


@dataclass(frozen=True)
class Damaged:
    """A row of a source that is no caption: where it is, what can be shown of it, and why."""

    place: str
    caption: str
    reason: str
    detail: str


def _damaged(place: str, found: Any, why: Rejected) -> Damaged:
    return Damaged(place, excerpt(found), str(why.reason), excerpt(why.detail))


@dataclass(frozen=True)
class _Row:
    """What a row holds, before anyone has looked at it."""

    place: str
    text: Any
    topic: Any = None


def read_captions(source: CaptionFile) -> Iterator[Caption | Damaged]:
    """Yield the captions of a source in order, white space evened out, and its damaged rows.

    Raises:
        CaptionFileError: nothing there, no such column, or of another form than the recipe says.
    """
    for row in _ROWS[source.format](source):
        if isinstance(row, Damaged):
            yield row
            continue
        try:
            text = clean(row.text, source.max_characters)
            topic = TOPIC if row.topic is None else clean(row.topic, source.max_characters)
        except Rejected as why:
            yield _damaged(row.place, row.text, why)
        else:
            yield Caption(text, topic, text)


def clean(text: Any, max_characters: int) -> str:
    """Return a text, given as such or in UTF-8, with every run of white space and control characters made one space.

    Raises:
        Rejected: no text, nothing in it, too long, or not to be written as UTF-8.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if not isinstance(text, str):
            raise Rejected(Reason.NO_TEXT, f"found {type(text).__name__}")
        text.encode()
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NOT_UTF8, f"byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise Rejected(Reason.NOT_UTF8, f"character {error.start} is half of a pair") from error
    caption = _BLANK.sub(" ", text).strip()
    if not caption:
        raise Rejected(Reason.EMPTY)
    if len(caption) > max_characters:
        raise Rejected(Reason.TOO_LONG, f"{len(caption)} characters; at most {max_characters}")
    return caption


def excerpt(found: Any, most: int | None = _EXCERPT) -> str:
    """What can be shown of anything, in characters that any file can hold; None: all of it."""
    if isinstance(found, bytes):
        return found[:most].decode("utf-8", "backslashreplace")
    text = found if isinstance(found, str) else ascii(found)
    return text[:most].encode("utf-8", "backslashreplace").decode()


def _files(path: str, pattern: str) -> list[Path]:
    """The file at a path, or those below a folder whose name matches, without hidden ones, in the order of their paths.

    Raises:
        CaptionFileError: there is none.
    """
    top = Path(path).expanduser()
    if top.is_file():
        return [top]
    found = sorted(file for file in top.rglob(pattern) if file.is_file() and not file.name.startswith("."))
    if not found:
        what = f"no file {pattern} in it" if top.is_dir() else "nothing there"
        raise CaptionFileError(f"captions.file.path is {path!r}, but there is {what}; check the path on this machine")
    return found


def _lines(path: Path) -> Iterator[_Row | Damaged]:
    """Yield the lines of a file as bytes. Memory is bounded, whatever the file holds."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            place = f"{path.name}, line {number}"
            if len(line) < _LINE_BYTES or line.endswith(b"\n"):
                yield _Row(place, line)
                continue
            while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield _damaged(place, line, Rejected(Reason.TOO_LONG, f"a line of more than {_LINE_BYTES} bytes"))


def _text_rows(source: CaptionFile) -> Iterator[_Row | Damaged]:
    for path in _files(source.path, "*.txt"):
        yield from _lines(path)


def _json_rows(source: CaptionFile) -> Iterator[_Row | Damaged]:
    for path in _files(source.path, "*.jsonl"):
        for line in _lines(path):
            if isinstance(line, Damaged):
                yield line
                continue
            try:
                yield _row(source, line.place, _object(line.text, source.column))
            except Rejected as why:
                yield _damaged(line.place, line.text, why)


def _object(line: bytes, field: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NOT_UTF8, f"byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.NOT_JSON, str(error)) from error
    if not isinstance(found, dict):
        raise Rejected(Reason.NO_TEXT, f"found JSON {type(found).__name__}, not an object")
    if field not in found:
        raise Rejected(Reason.NO_TEXT, f"no field {field!r}")
    return found


def _parquet_rows(source: CaptionFile) -> Iterator[_Row | Damaged]:
    columns = _columns(source)
    for path in _files(source.path, "*.parquet"):
        try:
            with pq.ParquetFile(path) as file:
                _require(columns, file.schema_arrow.names, path)
                number = 0
                for batch in file.iter_batches(_BATCH, columns=columns):
                    for values in zip(*(_values(batch.column(name)) for name in columns), strict=True):
                        yield _row(source, f"{path.name}, row {number}", dict(zip(columns, values, strict=True)))
                        number += 1
        except (pa.ArrowException, OSError) as error:
            yield _damaged(path.name, "", Rejected(Reason.DAMAGED_FILE, str(error)))


def _values(column: pa.Array) -> list[Any]:
    """A column's values; texts as bytes, so that one that is not UTF-8 does not spoil the others."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


def _dataset_rows(source: CaptionFile) -> Iterator[_Row | Damaged]:
    """Rows of a folder written by `save_to_disk`, or of one that `load_dataset` understands; images are not decoded."""
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    folder, columns = Path(source.path).expanduser(), _columns(source)
    if not folder.is_dir():
        raise CaptionFileError(f"captions are to come from the dataset in {folder}, but there is no such folder")
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            rows = load_from_disk(str(folder))
            rows = rows[source.split] if isinstance(rows, DatasetDict) else rows
        else:
            rows = load_dataset(str(folder), split=source.split, streaming=True)
        _require(columns, rows.column_names or list(next(iter(rows), {})), folder)
        for number, row in enumerate(rows.select_columns(columns)):
            yield _row(source, f"{source.split}, row {number}", row)
    except (DatasetsError, KeyError, ValueError, OSError, pa.ArrowException) as error:
        if isinstance(error, CaptionFileError):
            raise
        raise CaptionFileError(
            f"datasets cannot read the split {source.split!r} of {folder}: {type(error).__name__}: {error}"
        ) from error


def _columns(source: CaptionFile) -> list[str]:
    return [source.column, *([source.topic_column] if source.topic_column else [])]


def _require(wanted: list[str], found: list[str], place: Path) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise CaptionFileError(
            f"{place} has no column {', '.join(missing)}; its columns are {', '.join(found)}. "
            "Set captions.file.column and captions.file.topic_column"
        )


def _row(source: CaptionFile, place: str, row: dict[str, Any]) -> _Row:
    topic = row.get(source.topic_column) if source.topic_column else None
    return _Row(place, row[source.column], str(topic) if isinstance(topic, int) else topic)


def _set_rows(source: CaptionFile) -> Iterator[_Row | Damaged]:
    """Captions of a set of pictures, in the field in which the teacher `files` looks for them."""
    fields = CAPTION_FIELDS if source.column == "caption" else (source.column,)
    try:
        opened = open_set(source.path, "folder" if source.format == "folder" else "webdataset", caption_fields=fields)
    except ImageSetError as error:
        raise CaptionFileError(str(error)) from error
    for found in opened.samples():
        if isinstance(found, Sample):
            yield _Row(found.key, found.caption)
        else:
            yield Damaged(found.key, excerpt(found.caption or ""), str(found.why.reason), excerpt(found.why.detail))


_ROWS = {
    "txt": _text_rows,
    "jsonl": _json_rows,
    "parquet": _parquet_rows,
    "dataset": _dataset_rows,
    "webdataset": _set_rows,
    "folder": _set_rows,
}
