"""Layout, small columns and byte ranges of token files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from lightgen_core.data.parquet_pages import LENGTH_PREFIX_BYTES, plain_ranges
from lightgen_core.encoders.dtypes import DTYPES

CAPTION_ID = "caption_id"
"""Column of the row of text that goes with an image, unless another caption is chosen."""

FEATURES = "features"
"""Column of a frozen encoder's features, for each token of the grid in row-major order."""


class DataError(ValueError):
    """The files are not what training reads: says which file or row, and what was expected."""


@dataclass(frozen=True)
class TokenLayout:
    """Layout of the values (schema metadata `lightgen`); with `moments`, `latents` are means and `std` is a column.

    Files without latents have no channels, height and width, those without text no text width. Where there is a column
    `features`, it holds feature_height x feature_width x feature_channels values.
    """

    dtype: str
    channels: int = 0
    height: int = 0
    width: int = 0
    text_width: int = 0
    moments: bool = False
    feature_height: int = 0
    feature_width: int = 0
    feature_channels: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of every value, half precision."""
        return DTYPES[self.dtype]

    def bytes_of(self, column: str, rows: int | np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return the bytes of a column's values in so many rows with so many text tokens, elementwise."""
        image = self.channels * self.height * self.width
        if column == FEATURES:
            image = self.feature_height * self.feature_width * self.feature_channels
        values = tokens * self.text_width if column == "text" else rows * image
        return np.broadcast_to(values * self.torch_dtype.itemsize, np.shape(tokens))


@dataclass(frozen=True)
class TokenFile:
    """The rows of one file.

    ids, text_lengths: (rows,) int64, lengths 0 without text; caption_ids: by column, (rows,) int64 ids of rows of text,
    empty if rows have text; groups: (row groups,) int64, rows of each; ranges: for each column of values, (row groups,
    2) int64, where its values begin and end in the file; empty if the pages are not plain.
    """

    file: Path
    layout: TokenLayout
    ids: np.ndarray
    text_lengths: np.ndarray
    caption_ids: Mapping[str, np.ndarray]
    groups: np.ndarray
    ranges: Mapping[str, np.ndarray]


def small_columns(columns: Sequence[str], captions: Sequence[str] = (CAPTION_ID,)) -> list[str]:
    """Return the integer columns that go with columns of values: `text_length` with text, `captions` without."""
    return ["id", *(["text_length"] if "text" in columns else captions)]


def open_token_file(file: Path, columns: Sequence[str], captions: Sequence[str] = (CAPTION_ID,)) -> TokenFile:
    """Read a file's footer, page headers of `columns`, and its small columns, `captions` among them.

    Raises:
        DataError: missing columns or metadata, an id or a text length that is none.
    """
    names = small_columns(columns, captions)
    with _opened(file) as parquet:
        layout = _layout(parquet.schema_arrow, (*names, *columns), file)
        small = parquet.read(columns=names, use_threads=False)
        metadata = parquet.metadata
    ids, *numbers = (_integers(small[name], name, file) for name in names)
    has_text = "text" in columns
    lengths = numbers[0] if has_text else np.zeros_like(ids)
    if has_text and len(lengths) and lengths.min() < 1:
        raise DataError(f"{file}: row {ids[lengths.argmin()]} has no words; expected one or more")
    groups = np.array([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)], dtype=np.int64)
    ranges = plain_ranges(file, metadata, columns)
    of_captions = {} if has_text else dict(zip(captions, numbers, strict=True))
    return TokenFile(file, layout, ids, lengths, of_captions, groups, ranges)


def has_moments(file: Path) -> bool:
    """Return whether a token file holds standard deviations; DataError if it is none."""
    with _opened(file) as parquet:
        return _layout(parquet.schema_arrow, (), file).moments


def kept_ids(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the ids (rows,) int64 of a keep list whose `kept` is true, and their weights (rows,) float64.

    Weights are None of a list without the column `weight`. Raises DataError if the file is none, or a weight is no
    finite number of 0 or more.
    """
    with _opened(file) as parquet:
        names = parquet.schema_arrow.names
        if missing := {"id", "kept"} - set(names):
            raise DataError(f"{file}: without column {', '.join(sorted(missing))}; the dedup stage did not write it")
        table = parquet.read(columns=["id", "kept", *(["weight"] if "weight" in names else [])])
    table = table.filter(table["kept"])
    ids = _integers(table["id"], "id", file)
    if "weight" not in names:
        return ids, None
    weights = table["weight"].to_numpy().astype(np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise DataError(f"{file}: column weight holds {weights.min()} to {weights.max()}; expected 0 or more, finite")
    return ids, weights


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except pa.ArrowInvalid as error:
        raise DataError(f"{file} is not a Parquet file that can be read: {error}") from error


def _layout(schema: pa.Schema, columns: Sequence[str], file: Path) -> TokenLayout:
    """Return the `lightgen` metadata of a schema, checked together with its columns."""
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise DataError(f"{file}: without column {', '.join(missing)}; found {', '.join(schema.names)}")
    metadata = (schema.metadata or {}).get(b"lightgen")
    if metadata is None:
        raise DataError(f"{file}: without the schema metadata `lightgen`; the tokens stage did not write it")
    layout = json.loads(metadata)
    wanted = ["dtype", *(["text_width"] if "text" in columns else [])]
    if {"latents", "winner"} & set(columns):
        wanted += ["channels", "height", "width"]
    if FEATURES in columns:
        wanted += ["feature_height", "feature_width", "feature_channels"]
    if set(wanted) - layout.keys() or layout["dtype"] not in DTYPES:
        raise DataError(
            f"{file}: metadata `lightgen` is {layout}; expected {sorted(wanted)}, dtype one of {sorted(DTYPES)}"
        )
    return TokenLayout(**{field.name: layout[field.name] for field in fields(TokenLayout) if field.name in layout})


def _integers(column: pa.ChunkedArray, name: str, file: Path) -> np.ndarray:
    if column.null_count or not pa.types.is_integer(column.type):
        raise DataError(f"{file}: column {name} is {column.type} with {column.null_count} nulls; expected integers")
    return column.to_numpy().astype(np.int64)


def check_sizes(piece: TokenFile) -> None:
    """Raise DataError if the values of a row group do not fit layout and text lengths."""
    starts = np.concatenate([[0], piece.groups]).cumsum()
    tokens = np.diff(np.concatenate([[0], piece.text_lengths]).cumsum()[starts])
    for column, ranges in piece.ranges.items():
        expected = piece.groups * LENGTH_PREFIX_BYTES + piece.layout.bytes_of(column, piece.groups, tokens)
        for group in np.flatnonzero(ranges[:, 1] - ranges[:, 0] != expected):
            raise _explained(piece, column, int(group), int(starts[group]))


def _explained(piece: TokenFile, column: str, group: int, first: int) -> DataError:
    """Name the row of wrong size in a row group that begins at row `first` of the file."""
    with pq.ParquetFile(piece.file) as parquet:
        values = parquet.read_row_group(group, columns=[column])[column]
    sizes = pc.fill_null(pc.binary_length(values), -1).to_numpy()
    expected = piece.layout.bytes_of(column, 1, piece.text_lengths[first : first + len(sizes)])
    for row in np.flatnonzero(sizes != expected):
        return wrong_size(piece.file, column, piece.ids[first + row], int(sizes[row]), int(expected[row]), piece.layout)
    return DataError(f"{piece.file}: row group {group} of column {column} is damaged; make the file again")


def wrong_size(file: str | Path, column: str, row_id: int, found: int, expected: int, layout: TokenLayout) -> DataError:
    """Return the error for a value of `found` bytes, or -1 for none."""
    return DataError(
        f"{file}: {column} of row {row_id} has {'no value' if found < 0 else f'{found} bytes'}; expected {expected} "
        f"bytes of {layout.dtype}: the file does not match its metadata, make it again"
    )
