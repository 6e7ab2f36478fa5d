"""A frame: rows to look at, with the images beside them; and the search, filters and order of a query."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.browse.catalogue import Known

FACET_VALUES = 200
"""Most values of a facet that are listed."""
TELLING = ("verdict", "reason")
"""Facets that are listed even where all rows have one value."""
TEXT_SHOWN = 400
"""Characters of a text in a list; the row itself has all."""
EXACT = 2**53
"""Integers up to here are exact in a browser; a seed may be larger."""
SHUFFLED = "random"
"""Name of an order that is none of the columns: a fixed permutation."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageColumn:
    """Images of a frame's rows; `positions` (n,) int64 are rows of the artifact's table, -1 where there is none."""

    title: str
    known: Known
    column: str
    positions: Rows

    def url(self, row: int) -> str | None:
        """Return the address of a row's image; it changes when the artifact is made again with other bytes."""
        position, version = int(self.positions[row]), self.known.version
        return f"image/{self.known.artifact.path}/{self.column}/{position}?v={version}" if position >= 0 else None


@dataclass(frozen=True)
class Frame:
    """Rows of a view.

    table: text and numbers, no bytes and no vectors.
    images: of each row, from left to right.
    search, facets: columns that are searched, and those whose values are counted to filter by.
    """

    table: pa.Table
    images: tuple[ImageColumn, ...] = ()
    search: tuple[str, ...] = ("caption",)
    facets: tuple[str, ...] = ()
    _facets: dict[str, Any] = field(default_factory=dict)

    def rows(self, indices: Sequence[int] | Rows, shown: int | None = TEXT_SHOWN) -> list[dict[str, Any]]:
        """Return rows as JSON; texts beyond `shown` characters are cut."""
        fields = self.table.take(pa.array(indices, pa.int64())).to_pylist()
        return [
            {
                "row": int(index),
                "fields": {name: _plain(value, shown) for name, value in row.items() if value is not None},
                "images": [{"title": each.title, "url": url} for each in self.images if (url := each.url(index))],
            }
            for index, row in zip(indices, fields, strict=True)
        ]

    def facet_counts(self) -> dict[str, list[list[Any]]]:
        """Return facet -> [value, rows] of each value, the most frequent first; null is ''."""
        for name in self.facets:
            if name not in self._facets and name in self.table.column_names:
                counts = pc.value_counts(_as_text(self.table[name])).to_pylist()
                counts.sort(key=lambda each: (-each["counts"], each["values"]))
                self._facets[name] = [[each["values"], each["counts"]] for each in counts]
        several = {name: counts for name, counts in self._facets.items() if len(counts) > 1 or name in TELLING}
        return {name: counts[:FACET_VALUES] for name, counts in several.items()}

    @property
    def sorts(self) -> list[str]:
        """Columns to order by, and a random order."""
        return [*self.table.column_names, SHUFFLED]


@dataclass(frozen=True)
class Query:
    """Words that a row has all of, values of facets, and an order."""

    search: str = ""
    filters: tuple[tuple[str, str], ...] = ()
    sort: str = ""
    descending: bool = False


def select_rows(frame: Frame, query: Query) -> Rows:
    """Return the rows that match, in order. Raises KeyError for a column that is not there.

    Words are taken as they are, without regard to case; `#17` is the row of this id.
    """
    table, mask = frame.table, None
    for name, value in query.filters:
        mask = _and(mask, pc.equal(_as_text(table[name]), value))
    for word in query.search.split():
        mask = _and(mask, _has_word(frame, word))
    rows = np.arange(len(table)) if mask is None else np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    if query.sort == SHUFFLED:
        return rows[np.random.default_rng(0).permutation(len(rows))]
    if query.sort:
        keys = pa.table({"key": table[query.sort].take(pa.array(rows))})
        order = "descending" if query.descending else "ascending"
        by = pc.sort_indices(keys, sort_keys=[("key", order)])  # nulls come last
        return rows[by.to_numpy()]
    return rows[::-1] if query.descending else rows


def _has_word(frame: Frame, word: str) -> pa.Array:
    if re.fullmatch(r"#\d{1,18}", word) and "id" in frame.table.column_names:
        return _flat(pc.equal(frame.table["id"], int(word[1:])))
    found = None
    for name in frame.search:
        if name in frame.table.column_names:
            hits = _flat(pc.match_substring(frame.table[name], word, ignore_case=True))
            found = hits if found is None else pc.or_(found, hits)
    return pa.array(np.zeros(len(frame.table), bool)) if found is None else found


def _and(mask: pa.Array | None, more: pa.Array | pa.ChunkedArray) -> pa.Array:
    return _flat(more) if mask is None else pc.and_(mask, _flat(more))


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return booleans as one array without nulls."""
    joined = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.fill_null(joined, False)


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(values if pa.types.is_string(values.type) else values.cast(pa.string()), "")


def _plain(value: Any, shown: int | None) -> Any:
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    if isinstance(value, int) and abs(value) > EXACT:
        return str(value)
    if isinstance(value, str) and shown and len(value) > shown:
        return f"{value[:shown]}\N{HORIZONTAL ELLIPSIS}"
    return value


def positions_of(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> Rows:
    """Return where each id stands among others; -1 where it does not, or is null."""
    found = pc.index_in(ids, value_set=among.combine_chunks(), skip_nulls=True)
    return _joined(pc.fill_null(found, -1)).to_numpy(zero_copy_only=False).astype(np.int64)


def taken(values: pa.ChunkedArray, positions: Rows) -> pa.Array:
    """Return values at positions; null where a position is -1."""
    return _joined(values.take(pa.array(positions, mask=positions < 0)))


def _joined(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def with_columns(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Return a table with columns appended."""
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table
