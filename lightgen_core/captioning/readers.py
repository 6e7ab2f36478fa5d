"""Read captions from text, JSON lines, Parquet, Hugging Face datasets and image sets.

A damaged row becomes a `BadRow` with its reason; only a source that cannot be used at all raises.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa

from lightgen_core.captioning.config import CaptionFile
from lightgen_core.captioning.reasons import Reason
from lightgen_core.captioning.select import Caption
from lightgen_core.images.files import Files, is_hidden
from lightgen_core.images.form import SUFFIXES, describe, find_form, form_names
from lightgen_core.images.image_set import Format, open_image_set, open_split
from lightgen_core.images.metadata import FILE_NAMES
from lightgen_core.images.reference import IMAGE_COLUMNS
from lightgen_core.images.sample import CAPTION_FIELDS, BadSample, ImageSetError, normalize_whitespace, usual_names
from lightgen_core.images.tables import csv_columns, csv_rows, lines, open_table, parse_object, table_rows
from lightgen_core.rejected import Reason as ImageReason
from lightgen_core.rejected import Rejected

TOPIC = "captions"
"""Default topic."""

_DEFAULT_COLUMN = "caption"
_LINE_BYTES = 1 << 20
_EXCERPT = 200  # characters of a damaged line that are kept
_REASONS = {str(ImageReason.CAPTION_ENCODING): Reason.NOT_UTF8, str(ImageReason.CAPTION_JSON): Reason.NOT_JSON}


class CaptionFileError(ValueError):
    """A source of captions that is missing or not of the recipe's format."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no caption: position, excerpt and reason."""

    location: str
    caption: str
    reason: str
    detail: str


@dataclass(frozen=True)
class _Row:
    """The unchecked content of a row, or its error."""

    location: str
    text: Any
    topic: Any = None
    error: Rejected | None = None


def read_captions(source: CaptionFile) -> Iterator[Caption | BadRow]:
    """Yield a source's captions in order, whitespace normalized, and its bad rows.

    Raises:
        CaptionFileError: the source or its column is missing, or it is not of the recipe's format.
    """
    for row in _rows(source):
        try:
            if row.error is not None:
                raise row.error
            text = clean(row.text, source.max_characters)
        except Rejected as error:
            excerpt, detail = truncate_for_report(row.text), truncate_for_report(error.detail)
            yield BadRow(row.location, excerpt, str(error.reason), detail)
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


def _open(source: CaptionFile) -> tuple[Files, str]:
    """Return the files of a source and its form. Raises CaptionFileError."""
    try:
        format = None if source.format == "txt" else source.format
        files, form = open_split(source.path, format, source.split, source.subset)
        if source.format == "txt":
            return files, "txt"
        return files, form or _find_form(files)
    except ImageSetError as error:
        raise CaptionFileError(f"captions.file.path is {source.path!r}: {error}") from error


def _find_form(files: Files) -> str:
    """Return the form of captions: that of an image set, or tables or text without images."""
    try:
        return find_form(files, IMAGE_COLUMNS)
    except ImageSetError:
        if files.file and _has_header(files, files.file):
            return "csv"
        names = [name.lower() for name in files.find("") if not is_hidden(name)]
        for form in SUFFIXES:
            if form_names(names, form):
                return form
        if any(name.endswith(".txt") for name in names):
            return "txt"
        raise


def _has_header(files: Files, name: str) -> bool:
    """Return whether a text is a table: its first line has a column that names images, and one of captions."""
    if not name.lower().endswith(".txt"):
        return False
    columns = csv_columns(files, name, _LINE_BYTES)
    return bool(usual_names(columns, FILE_NAMES) and usual_names(columns, CAPTION_FIELDS))


def _names(source: CaptionFile, files: Files, form: str) -> list[str]:
    """Return the names of a form's files, without hidden ones. Raises CaptionFileError."""
    found = form_names(files.find(""), form) if form in SUFFIXES and files.file is None else files.find(f".{form}")
    names = [name for name in found if name == files.file or not is_hidden(name)]
    if not names:
        raise CaptionFileError(
            f"captions.file.path is {source.path!r}, but there is no file *.{form} in it; it holds {describe(files)}"
        )
    return names


def _text_rows(source: CaptionFile, files: Files) -> Iterator[_Row]:
    """Yield the lines of texts."""
    for name in _names(source, files, "txt"):
        for location, line in _lines(files, name):
            yield _Row(location, line or "", error=None if line else _too_long())


def _lines(files: Files, name: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield location and bytes of each line, None for one that is too long."""
    label = PurePosixPath(name).name
    for line in lines(files, name, _LINE_BYTES):
        yield f"{label}, line {line.number}", line.data


def _too_long() -> Rejected:
    return Rejected(Reason.TOO_LONG, f"a line of more than {_LINE_BYTES} bytes")


def _json_rows(source: CaptionFile, files: Files) -> Iterator[_Row]:
    for name in _names(source, files, "jsonl"):
        for location, line in _lines(files, name):
            try:
                if line is None:
                    raise _too_long()
                yield _row(source, location, _parse_object(line))
            except Rejected as error:
                yield _Row(location, line or "", error=error)


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        return parse_object(line)
    except Rejected as error:
        raise Rejected(_REASONS.get(str(error.reason), Reason.NO_TEXT), error.detail) from error


def _csv_rows(source: CaptionFile, files: Files) -> Iterator[_Row]:
    for name in _names(source, files, "csv"):
        label = PurePosixPath(name).name
        for number, row in csv_rows(files, name):
            location = f"{label}, row {number}"
            try:
                if isinstance(row, Rejected):
                    raise Rejected(Reason.BAD_ROW, row.detail)
                yield _row(source, location, row)
            except Rejected as error:
                yield _Row(location, "", error=error)


def _table_rows(source: CaptionFile, files: Files, form: str) -> Iterator[_Row]:
    for name in _names(source, files, form):
        label = PurePosixPath(name).name
        try:
            with open_table(files, name) as table:
                names = table.schema.names
            wanted = [*_caption_names(source, names), *([source.topic_column] if source.topic_column else [])]
            if missing := [column for column in wanted if column not in names] or ["captions"] * (not wanted):
                raise CaptionFileError(
                    f"{name} has no column {', '.join(missing)}; its columns are {', '.join(names)}. "
                    "Set captions.file.column and captions.file.topic_column"
                )
            for number, row in table_rows(files, name, wanted):
                yield _row(source, f"{label}, row {number}", row)
        except (pa.ArrowException, OSError) as error:
            yield _Row(label, "", error=Rejected(Reason.DAMAGED_FILE, str(error)))


def _caption_names(source: CaptionFile, columns: Iterable[str]) -> list[str]:
    """Return the columns of the caption: as the teacher `files` reads them where rows have images, else the one set."""
    names = list(columns)
    if source.column != _DEFAULT_COLUMN or (source.column in names and not usual_names(names, IMAGE_COLUMNS)):
        return [source.column]
    return usual_names(names, CAPTION_FIELDS) or [source.column]


def _row(source: CaptionFile, location: str, row: dict[str, Any]) -> _Row:
    """Return a row's content. Raises Rejected if it has no caption field."""
    if not (values := [row[name] for name in _caption_names(source, row) if name in row]):
        raise Rejected(Reason.NO_TEXT, f"no field {source.column!r}")
    topic = row.get(source.topic_column) if source.topic_column else None
    return _Row(location, _first_usable(values, source.max_characters), topic)


def _first_usable(values: list[Any], max_characters: int) -> Any:
    """Return the first value that is a caption, of a list its first one; the first value if none is."""
    plain = [value for value in values if not isinstance(value, list)]
    lists = [value for value in values if isinstance(value, list)]
    for value in chain(plain, *lists):
        with suppress(Rejected):
            clean(value, max_characters)
            return value
    return values[0]


def _set_rows(source: CaptionFile, form: Format | None) -> Iterator[_Row]:
    """Yield captions of an image set, as the teacher `files` reads them."""
    fields = CAPTION_FIELDS if source.column == _DEFAULT_COLUMN else (source.column,)
    try:
        image_set = open_image_set(
            source.path,
            form,
            split=source.split,
            subset=source.subset,
            captions=source.captions,
            caption_fields=fields,
        )
        for sample in image_set.samples():
            yield _Row(sample.key, sample.caption or "", error=sample.error if isinstance(sample, BadSample) else None)
    except ImageSetError as error:
        raise CaptionFileError(str(error)) from error


def _rows(source: CaptionFile) -> Iterator[_Row]:
    if source.captions:
        return _set_rows(source, cast(Format | None, source.format))
    files, form = _open(source)
    if form in ("folder", "webdataset"):
        return _set_rows(source, cast(Format, form))
    if form in ("parquet", "arrow"):
        return _table_rows(source, files, form)
    return {"txt": _text_rows, "jsonl": _json_rows, "csv": _csv_rows}[form](source, files)
