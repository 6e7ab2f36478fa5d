"""Image sets in JSON lines and CSV: a row has a caption, and an image by its path or, in JSON, as base64."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from lightgen_core.images.files import Files, is_hidden, read_files
from lightgen_core.images.reference import embedded_bytes, path_of, read_image, resolve_reference
from lightgen_core.images.sample import (
    IMAGE_SUFFIXES,
    BadSample,
    ByteRange,
    Sample,
    codec_of,
    first_caption,
    record_captions,
    usual_names,
)
from lightgen_core.images.tables import CSV_SUFFIXES, csv_rows, is_document, lines, parse_object
from lightgen_core.rejected import Reason, Rejected

_FIRST_LINE_BYTES = 1 << 26


@dataclass(frozen=True)
class RowSet:
    """Rows of JSON lines or CSV, in the order of the file names; paths are relative to the file's folder."""

    files: Files
    names: Sequence[str]
    caption_fields: Sequence[str]
    image_columns: Sequence[str]
    max_image_bytes: int
    whole: bool = True
    """True if these are all rows: an image that none of them names is then one without a caption."""

    @property
    def max_line_bytes(self) -> int:
        """Longest line: base64 makes four bytes of three."""
        return self.max_image_bytes * 4 // 3 + (1 << 20)

    def parts(self) -> list["RowSet"]:
        """Return a set for each file."""
        return [replace(self, names=[name], whole=False) for name in self.names]

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples, of a damaged file the rows before the damage and one bad sample."""
        named: set[str] = set()
        for name in self.names:
            number = 0
            rows = self._csv(name) if name.lower().endswith(CSV_SUFFIXES) else self._json(name)
            try:
                for number, byte_range, row in rows:
                    sample = self._sample(f"{name}:{number}", byte_range, row)
                    if isinstance(sample, Sample):
                        named.add(sample.byte_range.file)
                    yield sample
            except Rejected as error:
                yield BadSample(f"{name}: after row {number}", error.without_frames())
        if self.whole and self.files.file is None:
            for name in self.files.find(*(f".{suffix}" for suffix in IMAGE_SUFFIXES)):
                if name not in named and not is_hidden(name):
                    yield BadSample(name, Rejected(Reason.NO_CAPTION, "an image that no row names"))

    def _json(self, name: str) -> Iterator[tuple[int, ByteRange, dict[str, Any] | Rejected]]:
        for line in lines(self.files, name, self.max_line_bytes):
            row: dict[str, Any] | Rejected = Rejected(Reason.IMAGE_TOO_LARGE, f"more than {self.max_line_bytes} bytes")
            length = len(line.data or b"")
            if line.data is not None:
                if not line.data.strip(b" \t\r\n\0"):
                    continue
                try:
                    row = parse_object(line.data)
                except Rejected as error:
                    row = error.without_frames()
            yield line.number, ByteRange(name, line.start, length), row

    def _csv(self, name: str) -> Iterator[tuple[int, ByteRange, dict[str, Any] | Rejected]]:
        for number, row in csv_rows(self.files, name):
            yield number, ByteRange(name, 0, 0), row

    def _sample(self, key: str, byte_range: ByteRange, row: dict[str, Any] | Rejected) -> Sample | BadSample:
        try:
            if isinstance(row, Rejected):
                raise row
            caption = first_caption(record_captions(row, self.caption_fields))
        except Rejected as error:
            return BadSample(key, error.without_frames())
        try:
            value = self._image(row)
            if embedded_bytes(value) is not None:
                return Sample(key, caption, self._embedded(byte_range))
            name = resolve_reference(self.files, str(PurePosixPath(byte_range.file).parent), path_of(value))
            return Sample(key, caption, ByteRange(name, 0, self.files.size(name)))
        except Rejected as error:
            return BadSample(key, error.without_frames(), caption)

    def _image(self, row: dict[str, Any]) -> Any:
        names = usual_names(row, self.image_columns)
        value = next((row[name] for name in names if row[name] not in (None, "", [])), None)
        if not names:
            expected = f"expected an image in one of {', '.join(self.image_columns)}; found {ascii(list(row))[:200]}"
            raise Rejected(Reason.NO_IMAGE, expected)
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @staticmethod
    def _embedded(byte_range: ByteRange) -> ByteRange:
        if byte_range.length == 0:
            raise Rejected(Reason.NO_IMAGE, "base64 in a CSV is not read; write JSON lines")
        return byte_range

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images; ascending rows of a packed file take one pass."""
        for embedded, group in groupby(ranges, key=lambda byte_range: byte_range.file in self.names):
            if not embedded:
                yield from read_files(self.files, [byte_range.file for byte_range in group], self.max_image_bytes)
                continue
            for name, some in groupby(group, key=lambda byte_range: byte_range.file):
                for line in self._lines_at(name, list(some)):
                    yield line if isinstance(line, Rejected) else self._decode(name, line)

    def _lines_at(self, name: str, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        done = 0
        try:
            if self._can_seek(name):
                with self.files.open(name) as file:
                    for byte_range in ranges:
                        file.seek(byte_range.start)
                        yield file.read(byte_range.length)
                        done += 1
                return
            found = iter(lines(self.files, name, self.max_line_bytes))
            for byte_range in ranges:
                if done and byte_range.start <= ranges[done - 1].start:
                    found = iter(lines(self.files, name, self.max_line_bytes))
                yield next((line.data or b"" for line in found if line.start == byte_range.start), b"")
                done += 1
        except (OSError, Rejected) as error:
            yield from (Rejected(Reason.ARCHIVE_CORRUPT, str(error)) for _ in ranges[done:])

    def _can_seek(self, name: str) -> bool:
        if name.lower().endswith((".gz", ".zst")) or is_document(name):
            return False
        with self.files.open(name) as file:
            return codec_of(file.read(2)) != "utf-16"

    def _decode(self, name: str, line: bytes) -> bytes | Rejected:
        try:
            value = self._image(parse_object(line))
            return read_image(self.files, str(PurePosixPath(name).parent), value, self.max_image_bytes)
        except Rejected as error:
            return error.without_frames()


def has_image_rows(files: Files, name: str, image_columns: Sequence[str]) -> bool:
    """Return whether the first row of a file that can be read names or holds an image."""
    source = RowSet(files, [name], (), image_columns, _FIRST_LINE_BYTES)
    rows = source._csv(name) if name.lower().endswith(CSV_SUFFIXES) else source._json(name)
    try:
        first = next((row for _, _, row in rows if isinstance(row, dict)), {})
    except Rejected:
        return False
    return bool(usual_names(first, image_columns))
