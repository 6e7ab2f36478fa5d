"""Image sets in Parquet, as Hugging Face `datasets` writes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.images.sample import BadSample, ByteRange, ImageSetError, Sample, first_caption
from lightgen_core.rejected import Reason, Rejected

CAPTION_BATCH = 4096
IMAGE_BATCH = 16
_TEXT = (pa.string(), pa.large_string(), pa.string_view())


@dataclass(frozen=True)
class ParquetSet:
    """Rows of Parquet files, in the order of the file names."""

    base: Path
    files: Sequence[Path]
    caption_fields: Sequence[str]
    image_column: str
    max_image_bytes: int

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples, of a damaged file the rows before the damage and one bad sample.

        Raises:
            ImageSetError: a readable file has no column of captions or of images.
        """
        for path in self.files:
            name = path.relative_to(self.base).as_posix()
            row = 0
            try:
                with pq.ParquetFile(path) as file:
                    columns = self._caption_columns(file, name)
                    for batch in file.iter_batches(CAPTION_BATCH, columns=columns):
                        for values in zip(*(text_values(batch.column(column)) for column in columns), strict=True):
                            yield _sample(name, row, values)
                            row += 1
            except (pa.ArrowException, OSError) as error:
                yield BadSample(f"{name}: row {row} and the rest", _corrupt(error))

    def _caption_columns(self, file: pq.ParquetFile, name: str) -> list[str]:
        columns = file.schema_arrow
        present = f"{name} has columns {', '.join(f'{each.name} ({each.type})'[:100] for each in columns)}"
        fields = [field for field in self.caption_fields if field in columns.names]
        captions = [field for field in fields if _is_bytes(columns.field(field).type)]
        if not captions:
            raise ImageSetError(f"{present}; expected captions, as text, in one of {', '.join(self.caption_fields)}")
        if self._image_leaf(columns) is None:
            expected = f"images in {self.image_column!r}: bytes, or an Image feature with embedded bytes"
            raise ImageSetError(f"{present}; expected {expected}")
        return captions

    def _image_leaf(self, columns: pa.Schema) -> str | None:
        """Return the path of the column of bytes, or None."""
        if self.image_column not in columns.names:
            return None
        arrow_type = columns.field(self.image_column).type
        if pa.types.is_struct(arrow_type) and arrow_type.get_field_index("bytes") >= 0:
            return f"{self.image_column}.bytes"
        return self.image_column if _is_bytes(arrow_type) and arrow_type not in _TEXT else None

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images; ascending rows read each row group once."""
        for name, group in groupby(ranges, key=lambda byte_range: byte_range.file):
            rows = [byte_range.start for byte_range in group]
            done = 0
            try:
                for value in self._rows(self.base / name, rows):
                    if value is None:
                        detail = "the picture is not embedded; paths in a data set are not followed"
                        yield Rejected(Reason.NO_IMAGE, detail)
                    elif len(value) > self.max_image_bytes:
                        detail = f"{len(value)} bytes; at most {self.max_image_bytes}"
                        yield Rejected(Reason.IMAGE_TOO_LARGE, detail)
                    else:
                        yield value
                    done += 1
            except (pa.ArrowException, OSError) as error:
                yield from (_corrupt(error) for _ in rows[done:])

    def _rows(self, path: Path, rows: Sequence[int]) -> Iterator[bytes | None]:
        """Yield the encoded images of ascending rows of a file."""
        with pq.ParquetFile(path) as file:
            leaf = self._image_leaf(file.schema_arrow)
            remaining = iter(rows)
            row = next(remaining, None)
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if row is None or row >= end:
                    first = end
                    continue
                for batch in file.iter_batches(IMAGE_BATCH, row_groups=[group], columns=[leaf]):
                    column = batch.column(0)
                    values = column.field("bytes") if pa.types.is_struct(column.type) else column
                    while row is not None and row < first + len(values):
                        yield values[row - first].as_py()
                        row = next(remaining, None)
                    first += len(values)


def text_values(column: pa.Array) -> list[Any]:
    """Return a column's values, strings as bytes (invalid UTF-8 rejects one row), categories as what they stand for."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return (column.cast(pa.large_binary()) if column.type in _TEXT else column).to_pylist()


def _is_bytes(arrow_type: pa.DataType) -> bool:
    """Return whether values are text or bytes, also those of a dictionary (categories)."""
    plain = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    return plain in (*_TEXT, pa.binary(), pa.large_binary(), pa.binary_view()) or pa.types.is_fixed_size_binary(plain)


def _sample(name: str, row: int, values: Sequence[bytes | None]) -> Sample | BadSample:
    key = f"{name}:{row}"
    try:
        if captions := [value for value in values if value is not None]:
            return Sample(key, first_caption(captions), ByteRange(name, row, 1))
        return BadSample(key, Rejected(Reason.NO_CAPTION, "the caption is null"))
    except Rejected as error:
        return BadSample(key, error.without_frames())


def _corrupt(error: Exception) -> Rejected:
    return Rejected(Reason.ARCHIVE_CORRUPT, str(error))
