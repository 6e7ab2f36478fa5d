"""Metadata of a folder's images: tables whose rows name an image and have its caption."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from lightgen_core.images.files import Files
from lightgen_core.images.reference import IMAGE_COLUMNS, path_of, resolve_reference
from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    IMAGE_SUFFIXES,
    BadSample,
    first_caption,
    key_and_suffix,
    record_captions,
    usual_names,
)
from lightgen_core.images.tables import (
    CSV_SUFFIXES,
    JSON_SUFFIXES,
    csv_rows,
    lines,
    parse_object,
    table_rows,
    without_caption_number,
)
from lightgen_core.rejected import Reason, Rejected

FILE_NAMES = ("file_name", *(name for name in IMAGE_COLUMNS if name != "file_name"), "image_name")
"""Usual names of the column that names an image."""
TABLE_SUFFIXES = (*CSV_SUFFIXES, ".txt", *JSON_SUFFIXES, ".parquet", ".arrow")
"""Suffixes of tables; a .txt is a CSV."""


@dataclass
class Metadata:
    """Captions that rows give to images, by the key of the image, until the image takes its own.

    The first usable row of an image counts, as of a list of captions the first usable one.
    """

    captions: dict[str, str | BadSample] = field(default_factory=dict)
    others: dict[str, list[BadSample]] = field(default_factory=dict)
    """The further rows of an image."""
    folded: dict[str, str] = field(default_factory=dict)
    """Keys of names that no file has, by the same in small letters."""
    rejected: list[BadSample] = field(default_factory=list)
    """Rows that name no image."""

    def add(self, key: str, location: str, found: str | Rejected) -> None:
        """Add the caption that a row has for an image, or why there is none."""
        caption = BadSample(location, found) if isinstance(found, Rejected) else found
        first = self.captions.get(key)
        if first is None or (isinstance(first, BadSample) and isinstance(caption, str)):
            self.captions[key], further = caption, first
        elif isinstance(caption, str):
            error = Rejected(Reason.DUPLICATE_KEY, "an earlier row has the caption of this image")
            further = BadSample(location, error, caption)
        else:
            further = caption
        if isinstance(further, BadSample):
            self.others.setdefault(key, []).append(further)

    def take(self, key: str) -> tuple[str | Rejected | None, list[BadSample]]:
        """Return the caption of an image, in whichever case rows name it, and its further rows."""
        key = key if key in self.captions else self.folded.get(key.casefold(), "")
        found = self.captions.pop(key, None)
        return found.error if isinstance(found, BadSample) else found, self.others.pop(key, [])

    def left(self) -> Iterator[BadSample]:
        """Yield the rows that name no image, and those that no image has taken."""
        yield from self.rejected
        for key in self.captions:
            yield BadSample(key, Rejected(Reason.NO_IMAGE, "the metadata name an image that is not there"))
            yield from self.others.get(key, [])


def read_metadata(files: Files, name: str, fields: Sequence[str], metadata: Metadata) -> Iterator[BadSample]:
    """Add the captions of a table that lies with the images, and yield the rows that name none."""
    folder = str(PurePosixPath(name).parent)
    for location, row in metadata_rows(files, name):
        try:
            if isinstance(row, Rejected):
                raise row
            if (key := _key(files, folder, named_image(row), metadata.folded)) is not None:
                metadata.add(key, location, caption_of(row, fields))
        except Rejected as error:
            yield BadSample(location, error.without_frames())


def _key(files: Files, folder: str, text: str, folded: dict[str, str]) -> str | None:
    """Return the key of the image that a row of a folder names; None if it is of another split. Raises Rejected."""
    try:
        name = resolve_reference(files, folder, text)
        return None if files.names is not None and name not in files.names else key_and_suffix(name)[0]
    except Rejected as error:
        if error.reason is not Reason.NO_IMAGE or "://" in text:
            raise
    # Without its suffix, or with the file's in another case: the image decides when it comes.
    key = image_key(PurePosixPath(folder, text.replace("\\", "/").lstrip("/")))
    folded[key.casefold()] = key
    return key


def image_key(path: PurePosixPath) -> str:
    """Return the key of the image that a path means, which may lack its suffix."""
    return str(path.with_suffix("")) if path.suffix[1:].lower() in IMAGE_SUFFIXES else str(path)


def named_image(row: Mapping[str, Any]) -> str:
    """Return the path of the image that a row names. Raises Rejected."""
    column = next((name for name in usual_names(row, FILE_NAMES) if row[name]), None)
    if column is None:
        raise Rejected(Reason.NO_IMAGE, f"expected a path in file_name; found {ascii(list(row))[:200]}")
    path = path_of(row[column].decode(errors="replace") if isinstance(row[column], bytes) else row[column])
    return without_caption_number(path)


def caption_of(row: Mapping[str, Any], fields: Sequence[str]) -> str | Rejected:
    """Return the caption of a row, or why there is none."""
    try:
        return first_caption(record_captions(row, fields))
    except Rejected as error:
        return error.without_frames()


def metadata_rows(files: Files, name: str) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    """Yield the location and the values of each row; of a damaged table the rows before the damage, and the error."""
    try:
        yield from ((f"{name}, {place}", row) for place, row in _rows(files, name))
    except (Rejected, pa.ArrowException, OSError) as error:
        detail = error.detail if isinstance(error, Rejected) else str(error)
        yield f"{name}: the rest", Rejected(Reason.ARCHIVE_CORRUPT, detail)


def _rows(files: Files, name: str) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    if name.lower().endswith((*CSV_SUFFIXES, ".txt")):
        yield from ((f"row {number}", row) for number, row in csv_rows(files, name))
    elif name.lower().endswith((".parquet", ".arrow")):
        yield from ((f"row {number}", row) for number, row in table_rows(files, name))
    else:
        for line in lines(files, name, CAPTION_FILE_BYTES):
            if line.data is None:
                yield f"line {line.number}", Rejected(Reason.CAPTION_TOO_LONG, f"more than {CAPTION_FILE_BYTES} bytes")
            elif line.data.strip(b" \t\r\n\0"):
                try:
                    yield f"line {line.number}", parse_object(line.data)
                except Rejected as error:
                    yield f"line {line.number}", error.without_frames()
