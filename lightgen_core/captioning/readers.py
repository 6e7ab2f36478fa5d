"""Read captions from text, JSON lines, Parquet, Hugging Face datasets and image sets.

A damaged row becomes a `BadRow` with its reason; only a source that cannot be used at all raises.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption
from lightgen_core.images.image_set import CAPTION_FIELDS, ImageSetError, open_image_set
from lightgen_core.images.parquet_set import text_values
from lightgen_core.images.sample import BadSample, codec_of, normalize_whitespace
from lightgen_core.rejected import Rejected
from lightgen_core.walk import find_files

TOPIC = "captions"
"""Default topic."""

_LINE_BYTES = 1 << 20
_EXCERPT = 200  # characters of a damaged line that are kept
_NEWLINES = (b"\n", "\n")
_BATCH = 4096


class CaptionFileError(ValueError):
    """A source of captions that is missing or not of the recipe's format."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no caption: position, excerpt and reason."""

    place: str
    caption: str
    reason: str
    detail: str


@dataclass(frozen=True)
class _Row:
    """The unchecked content of a row, or its error."""

    place: str
    text: Any
    topic: Any = None
    error: Rejected | None = None


def read_captions(source: CaptionFile) -> Iterator[Caption | BadRow]:
    """Yield a source's captions in order, whitespace normalized, and its bad rows.

    Raises:
        CaptionFileError: the source or its column is missing, or it is not of the recipe's format.
    """
    for row in _ROWS[source.format](source):
        try:
            if row.error is not None:
                raise row.error
            text = clean(row.text, source.max_characters)
        except Rejected as error:
            excerpt, detail = truncate_for_report(row.text), truncate_for_report(error.detail)
            yield BadRow(row.place, excerpt, str(error.reason), detail)
        else:
            yield Caption(text, _topic(row.topic, source.max_characters), text)


def _topic(value: Any, max_characters: int) -> str:
    """Return a topic, text or number; the default one if it is neither, which is no fault of the caption."""
    try:
        return clean(str(value) if isinstance(value, int | float) and value == value else value, max_characters)
    except Rejected:
        return TOPIC


def clean(text: Any, max_characters: int) -> str:
    """Return a text (str or UTF-8 bytes), whitespace normalized; Rejected if not text, empty, too long or not UTF-8."""
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if not isinstance(text, str):
            raise Rejected(Reason.NO_TEXT, f"found {type(text).__name__}")
        text.encode()
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NOT_UTF8, f"byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise Rejected(Reason.NOT_UTF8, f"character {error.start} is half of a pair") from error
    caption = normalize_whitespace(text)
    if not caption:
        raise Rejected(Reason.EMPTY)
    if "\0" in text:
        raise Rejected(Reason.NOT_UTF8, "null characters, as in UTF-16 without a byte order mark")
    if len(caption) > max_characters:
        raise Rejected(Reason.TOO_LONG, f"{len(caption)} characters; at most {max_characters}")
    return caption


def truncate_for_report(value: Any, limit: int | None = _EXCERPT) -> str:
    """Return at most `limit` characters of any value (all if None) as valid UTF-8."""
    if isinstance(value, bytes):
        return value[:limit].decode("utf-8", "backslashreplace")
    text = value if isinstance(value, str) else ascii(value)
    return text[:limit].encode("utf-8", "backslashreplace").decode()


def _files(path: str, suffix: str) -> list[Path]:
    """Return the file at a path, or the files below it with a suffix, sorted, without hidden ones."""
    top = Path(path).expanduser()
    files = [file for file in find_files(top, suffix) if file == top or not file.name.startswith(".")]
    if not files:
        problem = f"no file *{suffix} in it" if top.is_dir() else "nothing there"
        raise CaptionFileError(
            f"captions.file.path is {path!r}, but there is {problem}; check the path on this machine"
        )
    return files


def _lines(source: CaptionFile) -> Iterator[_Row]:
    """Yield the lines of the files, as bytes if they are UTF-8, in bounded memory for any file."""
    for path in _files(source.path, f".{source.format}"):
        with path.open("rb") as file:
            utf16 = codec_of(file.read(2)) == "utf-16"
            file.seek(0)
            lines = TextIOWrapper(file, "utf-16", "replace", newline="\n") if utf16 else file
            number = 0
            while line := lines.readline(_LINE_BYTES):
                number += 1
                row = _Row(f"{path.name}, line {number}", line)
                if len(line) < _LINE_BYTES or line[-1:] in _NEWLINES:
                    yield row
                    continue
                while (rest := lines.readline(_LINE_BYTES)) and rest[-1:] not in _NEWLINES:
                    pass
                yield replace(row, error=Rejected(Reason.TOO_LONG, f"a line of more than {_LINE_BYTES} bytes"))


def _json_rows(source: CaptionFile) -> Iterator[_Row]:
    for line in _lines(source):
        try:
            yield line if line.error else _row(source, line.place, _parse_object(line.text, source.column))
        except Rejected as error:
            yield replace(line, error=error)


def _parse_object(line: bytes | str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NOT_UTF8, f"byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.NOT_JSON, str(error)) from error
    if not isinstance(value, dict):
        raise Rejected(Reason.NO_TEXT, f"found JSON {type(value).__name__}, not an object")
    if field not in value:
        raise Rejected(Reason.NO_TEXT, f"no field {field!r}")
    return value


def _parquet_rows(source: CaptionFile) -> Iterator[_Row]:
    columns = _columns(source)
    for path in _files(source.path, ".parquet"):
        try:
            with pq.ParquetFile(path) as file:
                _require(columns, file.schema_arrow.names, path)
                number = 0
                for batch in file.iter_batches(_BATCH, columns=columns):
                    for values in zip(*(text_values(batch.column(name)) for name in columns), strict=True):
                        yield _row(source, f"{path.name}, row {number}", dict(zip(columns, values, strict=True)))
                        number += 1
        except (pa.ArrowException, OSError) as error:
            yield _Row(path.name, "", error=Rejected(Reason.DAMAGED_FILE, str(error)))


def _dataset_rows(source: CaptionFile) -> Iterator[_Row]:
    """Yield rows of a `save_to_disk` or `load_dataset` folder; images are not decoded."""
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


def _require(names: list[str], columns: list[str], path: Path) -> None:
    if missing := [name for name in names if name not in columns]:
        raise CaptionFileError(
            f"{path} has no column {', '.join(missing)}; its columns are {', '.join(columns)}. "
            "Set captions.file.column and captions.file.topic_column"
        )


def _row(source: CaptionFile, place: str, row: dict[str, Any]) -> _Row:
    topic = row.get(source.topic_column) if source.topic_column else None
    return _Row(place, row[source.column], topic)


def _set_rows(source: CaptionFile) -> Iterator[_Row]:
    """Yield captions of an image set, as the teacher `files` reads them."""
    fields = CAPTION_FIELDS if source.column == "caption" else (source.column,)
    format: Literal["folder", "webdataset"] = "folder" if source.format == "folder" else "webdataset"
    try:
        image_set = open_image_set(source.path, format, caption_fields=fields)
    except ImageSetError as error:
        raise CaptionFileError(str(error)) from error
    for sample in image_set.samples():
        yield _Row(sample.key, sample.caption or "", error=sample.error if isinstance(sample, BadSample) else None)


_ROWS = {
    "txt": _lines,
    "jsonl": _json_rows,
    "parquet": _parquet_rows,
    "dataset": _dataset_rows,
    "webdataset": _set_rows,
    "folder": _set_rows,
}
