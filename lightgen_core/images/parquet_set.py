"""Image sets in Parquet, as Hugging Face `datasets` writes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.images.sample import BadSample, ByteRange, ImageSetError, Sample, clean_caption
from lightgen_core.rejected import Reason, Rejected

CAPTION_BATCH = 4096
IMAGE_BATCH = 16


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
                    column = self._caption_column(file, name)
                    for batch in file.iter_batches(CAPTION_BATCH, columns=[column]):
                        for value in batch.column(0):
                            yield _sample(name, row, value)
                            row += 1
            except (pa.ArrowException, OSError) as error:
                yield BadSample(f"{name}: row {row} and the rest", _corrupt(error))

    def _caption_column(self, file: pq.ParquetFile, name: str) -> str:
        columns = file.schema_arrow
        present = f"{name} has columns {', '.join(columns.names)}"
        caption = next((field for field in self.caption_fields if field in columns.names), None)
        if caption is None or columns.field(caption).type not in (pa.string(), pa.large_string()):
            raise ImageSetError(f"{present}; expected captions in one of {', '.join(self.caption_fields)}")
        if self._image_leaf(columns) is None:
            expected = f"images in {self.image_column!r}: bytes, or an Image feature with embedded bytes"
            raise ImageSetError(f"{present}; expected {expected}")
        return caption

    def _image_leaf(self, columns: pa.Schema) -> str | None:
        """Return the path of the column of bytes, or None."""
        if self.image_column not in columns.names:
            return None
        arrow_type = columns.field(self.image_column).type
        if pa.types.is_struct(arrow_type) and arrow_type.get_field_index("bytes") >= 0:
            return f"{self.image_column}.bytes"
        return self.image_column if arrow_type in (pa.binary(), pa.large_binary()) else None

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


def _sample(name: str, row: int, value: pa.Scalar) -> Sample | BadSample:
    key = f"{name}:{row}"
    try:
        if value.is_valid:
            return Sample(key, clean_caption(value.as_py()), ByteRange(name, row, 1))
        return BadSample(key, Rejected(Reason.NO_CAPTION, "the caption is null"))
    except UnicodeDecodeError as error:
        return BadSample(key, Rejected(Reason.CAPTION_ENCODING, f"byte {error.start}"))
    except Rejected as error:
        return BadSample(key, error.without_frames())


def _corrupt(error: Exception) -> Rejected:
    return Rejected(Reason.ARCHIVE_CORRUPT, str(error))
