"""Image sets in folders; a caption shares its image's name up to the suffix, or stands in a metadata file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from lightgen_core.images.files import Files, read_files
from lightgen_core.images.reference import IMAGE_COLUMNS, path_of, resolve_reference
from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    METADATA,
    BadSample,
    ByteRange,
    Sample,
    SampleFiles,
    first_caption,
    key_and_suffix,
    record_captions,
    usual_names,
)
from lightgen_core.images.tables import csv_rows, lines, parse_object, table_rows
from lightgen_core.rejected import Reason, Rejected

_FILE_NAME = ("file_name", *(name for name in IMAGE_COLUMNS if name != "file_name"))


@dataclass
class _Metadata:
    """Captions of images by key, which metadata gave and no image has taken yet."""

    captions: dict[str, str | Rejected] = field(default_factory=dict)
    folded: dict[str, str] = field(default_factory=dict)
    """Keys of names that no file has, by the same in small letters."""

    def pop(self, key: str) -> str | Rejected | None:
        """Return the caption of an image, in whichever case metadata name it."""
        found = self.captions.pop(key, None)
        return found if found is not None else self.captions.pop(self.folded.get(key.casefold(), ""), None)


@dataclass(frozen=True)
class FolderSet:
    """Samples of a folder and its subfolders by name."""

    files: Files
    caption_fields: Sequence[str]
    max_image_bytes: int

    def parts(self) -> list["FolderSet"]:
        """Return the set itself: a folder is read as one."""
        return [self]

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples."""
        metadata = _Metadata()
        for folder in self.files.folders():
            yield from folder.bad_samples
            names = []
            for name in folder.names:
                if PurePosixPath(name).name.lower() in METADATA:
                    yield from self._read_metadata(name, metadata)
                else:
                    names.append(name)
            for key, group in groupby(sorted(names, key=key_and_suffix), key=lambda name: key_and_suffix(name)[0]):
                yield from self._assemble(key, list(group), metadata)
        for key in metadata.captions:
            yield BadSample(key, Rejected(Reason.NO_IMAGE, "the metadata name an image that is not there"))

    def _read_metadata(self, name: str, metadata: _Metadata) -> Iterator[BadSample]:
        """Add the captions by the key of the image, and yield the rows that are none."""
        folder = str(PurePosixPath(name).parent)
        try:
            for place, row in _metadata_rows(self.files, name, self.caption_fields):
                try:
                    if isinstance(row, Rejected):
                        raise row
                    self._add_row(folder, row, metadata)
                except Rejected as error:
                    yield BadSample(f"{name}, {place}", error.without_frames())
        except (Rejected, pa.ArrowException, OSError) as error:
            yield BadSample(f"{name}: the rest", Rejected(Reason.ARCHIVE_CORRUPT, str(error)))

    def _add_row(self, folder: str, row: dict[str, Any], metadata: _Metadata) -> None:
        column = next((name for name in usual_names(row, _FILE_NAME) if row[name]), None)
        if column is None:
            raise Rejected(Reason.NO_IMAGE, f"expected a path in file_name; found {ascii(list(row))[:200]}")
        value = row[column].decode(errors="replace") if isinstance(row[column], bytes) else row[column]
        text = path_of(value)
        try:
            name = resolve_reference(self.files, folder, text)
            if self.files.names is not None and name not in self.files.names:
                return  # of another split
            key = key_and_suffix(name)[0]
        except Rejected as error:
            if error.reason is not Reason.NO_IMAGE or "://" in text:
                raise
            path = PurePosixPath(folder, text.replace("\\", "/").lstrip("/"))
            # Without its suffix, or with the file's in another case: the image decides when it comes.
            key = str(path.with_suffix("")) if path.suffix[1:].lower() in IMAGE_SUFFIXES else str(path)
            metadata.folded[key.casefold()] = key
        try:
            metadata.captions[key] = first_caption(record_captions(row, self.caption_fields))
        except Rejected as error:
            metadata.captions[key] = error.without_frames()

    def _assemble(self, key: str, names: Sequence[str], metadata: _Metadata) -> Iterator[Sample | BadSample]:
        sample_files = SampleFiles(key)
        for name in names:
            suffix = key_and_suffix(name)[1]
            if sample_files.is_duplicate(suffix):
                sample_files.reject(name, Reason.DUPLICATE_KEY, "another file has this key and kind")
            elif suffix in CAPTION_SUFFIXES:
                self._add_caption(sample_files, name, suffix)
            elif suffix in IMAGE_SUFFIXES:
                sample_files.images[suffix] = ByteRange(name, 0, self.files.size(name))
            else:
                sample_files.others.append(name)
        if sample_files.images and (caption := metadata.pop(key)) is not None:
            sample_files.captions["metadata"] = caption
        yield from sample_files.results()

    def _add_caption(self, sample_files: SampleFiles, name: str, suffix: str) -> None:
        data = self.files.read(name, CAPTION_FILE_BYTES)
        if data is None:
            sample_files.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, f"more than {CAPTION_FILE_BYTES} bytes")
        else:
            sample_files.add_caption(data, suffix, self.caption_fields)

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images."""
        yield from read_files(self.files, [byte_range.file for byte_range in ranges], self.max_image_bytes)


def _metadata_rows(
    files: Files, name: str, caption_fields: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    """Yield the place and the values of each row."""
    if name.lower().endswith(".csv"):
        yield from ((f"row {number}", row) for number, row in csv_rows(files, name))
    elif name.lower().endswith(".parquet"):
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
