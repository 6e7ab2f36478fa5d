"""Parquet pages in which the bytes of any row are found by arithmetic.

A *plain* column chunk is uncompressed, PLAIN-encoded and one page of version 1, as `storage.tables` writes columns of
bytes. Its values fill the end of the chunk, each behind its length in four little-endian bytes. Footer and page headers
tell all of this, and any Parquet reader opens the file (Apache Parquet, "File format" and "Encodings").
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

LENGTH_PREFIX_BYTES = 4
"""Bytes of the length before a value."""

_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3  # of the format's enumerations PageType and Encoding
_INT, _STRUCT = 5, 12  # type codes of Thrift's compact protocol


def plain_ranges(file: Path, metadata: pq.FileMetaData, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Return byte ranges of each row group's values, (row groups, 2) a column; empty if any is not plain."""
    indices = {metadata.schema.column(index).path: index for index in range(metadata.num_columns)}
    ranges: dict[str, np.ndarray] = {}
    with file.open("rb", buffering=0) as opened:
        for name in columns:
            if name not in indices:  # a nested column
                return {}
            nullable = metadata.schema.column(indices[name]).max_definition_level
            of_column = []
            for group in range(metadata.num_row_groups):
                chunk = metadata.row_group(group).column(indices[name])
                values = _values_of(opened.fileno(), chunk, nullable)
                if values is None:
                    return {}
                of_column.append(values)
            ranges[name] = np.array(of_column, dtype=np.int64).reshape(-1, 2)
    return ranges


def _values_of(descriptor: int, chunk: pq.ColumnChunkMetaData, nullable: int) -> tuple[int, int] | None:
    """Return the byte range of a chunk's values, or None if they are not one plain page."""
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or chunk.physical_type != "BYTE_ARRAY":
        return None
    page = dict(_page_header(os.pread(descriptor, 128, chunk.data_page_offset)))
    described = (page.get((0, 1)), page.get((5, 1)), page.get((5, 2)), page.get((5, 3)))
    if described != (_DATA_PAGE, chunk.num_values, _PLAIN, _RLE):
        return None
    end = chunk.data_page_offset + chunk.total_compressed_size
    begin = end - page[0, 3]
    if nullable:  # the definition levels come first, behind their length
        begin += 4 + int.from_bytes(os.pread(descriptor, 4, begin), "little")
    return begin, end


def _page_header(data: bytes) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield the first integers of a Thrift PageHeader in compact protocol, as ((struct, field), value).

    Struct 0 is the header itself (1 type, 2 size, 3 size in the file), struct 5 a data page of version 1 (1 values,
    2 encoding, 3 encoding of the definition levels). The first field of another type ends it.
    """
    at = struct = field = 0
    while at < len(data):
        field, kind = field + (data[at] >> 4), data[at] & 15
        at += 1
        if kind == _STRUCT:
            struct, field = field, 0
        elif kind == _INT:
            value = shift = 0
            more = True
            while more and at < len(data):
                value |= (data[at] & 127) << shift
                more, shift, at = data[at] > 127, shift + 7, at + 1
            yield (struct, field), (value >> 1) ^ -(value & 1)
        else:
            return
