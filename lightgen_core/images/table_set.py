"""Image sets in Parquet and Arrow, as Hugging Face `datasets` writes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from lightgen_core.images.files import Files
from lightgen_core.images.reference import IMAGE_COLUMNS, read_image
from lightgen_core.images.sample import BadSample, ByteRange, ImageSetError, Sample, first_caption, usual_names
from lightgen_core.images.tables import BATCH, IMAGE_BATCH, Table, is_caption, is_image, open_table, text_values
from lightgen_core.rejected import Reason, Rejected

_ERRORS = (pa.ArrowException, OSError)


@dataclass(frozen=True)
class TableSet:
    """Rows of Parquet or Arrow files, in the order of the file names; images are embedded or files of the set."""

    files: Files
    names: Sequence[str]
    caption_fields: Sequence[str]
    image_columns: Sequence[str]
    max_image_bytes: int

    def parts(self) -> list["TableSet"]:
        """Return a set for each file."""
        return [
            TableSet(self.files, [name], self.caption_fields, self.image_columns, self.max_image_bytes)
            for name in self.names
        ]

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples, of a damaged file the rows before the damage and one bad sample.

        Raises:
            ImageSetError: a readable file has no column of captions or of images.
        """
        for name in self.names:
            row = 0
            try:
                with open_table(self.files, name) as table:
                    columns = self._caption_columns(table, name)
                    for _, batch in table.batches(columns, BATCH):
                        for values in zip(*(text_values(batch.column(column)) for column in columns), strict=True):
                            yield _sample(name, row, values)
                            row += 1
            except _ERRORS as error:
                yield BadSample(f"{name}: row {row} and the rest", _corrupt(error))

    def _caption_columns(self, table: Table, name: str) -> list[str]:
        columns = table.schema
        present = f"{name} has columns {', '.join(f'{each.name} ({each.type})'[:100] for each in columns)}"
        fields = usual_names(columns.names, self.caption_fields)
        captions = [field for field in fields if is_caption(columns.field(field).type)]
        if not captions:
            raise ImageSetError(f"{present}; expected captions, as text, in one of {', '.join(self.caption_fields)}")
        if self._image_column(columns) is None:
            wanted = repr(self.image_columns[0]) if len(self.image_columns) == 1 else ", ".join(self.image_columns)
            raise ImageSetError(f"{present}; expected images in {wanted}: bytes, an Image feature, base64 or paths")
        return captions

    def _image_column(self, columns: pa.Schema) -> str | None:
        names = usual_names(columns.names, self.image_columns)
        return next((name for name in names if is_image(columns.field(name).type)), None)

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images; ascending rows read each row group once."""
        for name, group in groupby(ranges, key=lambda byte_range: byte_range.file):
            rows = [byte_range.start for byte_range in group]
            folder = str(PurePosixPath(name).parent)
            done = 0
            try:
                for value in self._values(name, rows):
                    yield self._read(folder, value)
                    done += 1
            except _ERRORS as error:
                yield from (_corrupt(error) for _ in rows[done:])

    def _read(self, folder: str, value: pa.Scalar) -> bytes | Rejected:
        try:
            return read_image(self.files, folder, value.as_py(), self.max_image_bytes)
        except UnicodeDecodeError as error:
            return Rejected(Reason.NAME_ENCODING, f"byte {error.start}")
        except Rejected as error:
            return error.without_frames()

    def _values(self, name: str, rows: Sequence[int]) -> Iterator[pa.Scalar]:
        """Yield the values of the image column in some rows of a file, in one pass where they ascend."""
        if list(rows) != sorted(rows):
            for each in rows:
                yield from self._values(name, [each])
            return
        with open_table(self.files, name) as table:
            column = self._image_column(table.schema)
            remaining = iter(rows)
            row: int | None = next(remaining, None)
            for first, batch in table.batches([column], IMAGE_BATCH, rows) if column else ():
                values = batch.column(0)
                while row is not None and row < first + len(values):
                    yield values[row - first]
                    row = next(remaining, None)
                if row is None:
                    return


def has_images(files: Files, name: str, image_columns: Sequence[str] = IMAGE_COLUMNS) -> bool:
    """Return whether a Parquet or Arrow file has a column of images; True for a damaged one."""
    try:
        with open_table(files, name) as table:
            names = usual_names(table.schema.names, image_columns)
            return any(is_image(table.schema.field(column).type) for column in names)
    except _ERRORS:
        return True


def _sample(name: str, row: int, values: Sequence[Any]) -> Sample | BadSample:
    key = f"{name}:{row}"
    try:
        if captions := [value for value in values if value is not None]:
            return Sample(key, first_caption(captions), ByteRange(name, row, 1))
        return BadSample(key, Rejected(Reason.NO_CAPTION, "the caption is null"))
    except Rejected as error:
        return BadSample(key, error.without_frames())


def _corrupt(error: Exception) -> Rejected:
    return Rejected(Reason.ARCHIVE_CORRUPT, str(error))
