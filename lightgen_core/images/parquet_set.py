"""Parquet files with a picture and a caption in each row, as Hugging Face `datasets` writes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.images.sample import Fault, ImageSetError, Place, Sample, clean_caption
from lightgen_core.rejected import Reason, Rejected

CAPTIONS_AT_ONCE = 4096
PICTURES_AT_ONCE = 16


@dataclass(frozen=True)
class ParquetSet:
    """The rows of some Parquet files, in the order of the files' names."""

    base: Path
    files: Sequence[Path]
    caption_fields: Sequence[str]
    image_column: str
    picture_bytes: int

    def samples(self) -> Iterator[Sample | Fault]:
        """Yield samples and faults. A file that cannot be read on gives the rows before, and one fault.

        Raises:
            ImageSetError: a file that can be read has no column of captions or of pictures.
        """
        for path in self.files:
            name = path.relative_to(self.base).as_posix()
            row = 0
            try:
                with pq.ParquetFile(path) as file:
                    column = self._caption_column(file, name)
                    for batch in file.iter_batches(CAPTIONS_AT_ONCE, columns=[column]):
                        for value in batch.column(0):
                            yield _sample(name, row, value)
                            row += 1
            except (pa.ArrowException, OSError) as error:
                yield Fault(f"{name}: row {row} and the rest", _damaged(error))

    def _caption_column(self, file: pq.ParquetFile, name: str) -> str:
        columns = file.schema_arrow
        caption = next((field for field in self.caption_fields if field in columns.names), None)
        if caption is None or not _is_text(columns.field(caption).type):
            wanted = ", ".join(self.caption_fields)
            raise ImageSetError(f"{name} has columns {', '.join(columns.names)}; expected captions in one of {wanted}")
        if self._picture_leaf(columns) is None:
            raise ImageSetError(
                f"{name} has columns {', '.join(columns.names)}; expected pictures in {self.image_column!r}: bytes, or "
                "an Image feature with embedded bytes"
            )
        return caption

    def _picture_leaf(self, columns: pa.Schema) -> str | None:
        """Return the name of the column of bytes."""
        if self.image_column not in columns.names:
            return None
        kind = columns.field(self.image_column).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{self.image_column}.bytes"
        return self.image_column if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None

    def read(self, places: Sequence[Place]) -> Iterator[bytes | Rejected]:
        """Yield pictures; the row groups that hold them are read once for a run of rising places."""
        for name, wanted in groupby(places, key=lambda place: place.file):
            rows = [place.start for place in wanted]
            given = 0
            try:
                for value in self._rows(self.base / name, rows):
                    yield self._checked(value)
                    given += 1
            except (pa.ArrowException, OSError) as error:
                yield from (_damaged(error) for _ in rows[given:])

    def _checked(self, value: bytes | None) -> bytes | Rejected:
        if value is None:
            return Rejected(Reason.NO_PICTURE, "the picture is not embedded; paths in a data set are not followed")
        if len(value) > self.picture_bytes:
            return Rejected(Reason.PICTURE_TOO_LARGE, f"{len(value)} bytes; at most {self.picture_bytes}")
        return value

    def _rows(self, path: Path, rows: Sequence[int]) -> Iterator[bytes | None]:
        """Yield the encoded pictures of some rows of a file; rows rise."""
        with pq.ParquetFile(path) as file:
            leaf = self._picture_leaf(file.schema_arrow)
            asked = iter(rows)
            row = next(asked, None)
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if row is None or row >= end:
                    first = end
                    continue
                for batch in file.iter_batches(PICTURES_AT_ONCE, row_groups=[group], columns=[leaf]):
                    column = batch.column(0)
                    values = column.field("bytes") if pa.types.is_struct(column.type) else column
                    while row is not None and row < first + len(values):
                        yield values[row - first].as_py()
                        row = next(asked, None)
                    first += len(values)


def _sample(name: str, row: int, value: pa.Scalar) -> Sample | Fault:
    key = f"{name}:{row}"
    try:
        if value.is_valid:
            return Sample(key, clean_caption(value.as_py()), Place(name, row, 1))
        return Fault(key, Rejected(Reason.NO_CAPTION, "the caption is null"))
    except UnicodeDecodeError as error:
        return Fault(key, Rejected(Reason.CAPTION_ENCODING, f"byte {error.start}"))
    except Rejected as why:
        return Fault(key, why.kept())


def _damaged(error: Exception) -> Rejected:
    return Rejected(Reason.ARCHIVE_DAMAGED, str(error))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
