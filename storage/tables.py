"""Parquet files: the column types that all stages share, writing and reading."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded image, in the form of the Image feature of Hugging Face `datasets`."""

ROW_GROUP = 1024
"""Most rows of a row group, the unit of reading."""

ROW_GROUP_BYTES = 64 << 20
"""Most bytes of a row group's values, before compression."""

_HUGGING_FACE_TYPES = {
    pa.int64(): "int64",
    pa.int32(): "int32",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): "string",
    pa.bool_(): "bool",
    pa.binary(): "binary",
}


def schema(fields: Mapping[str, pa.DataType], layout: Mapping[str, object] | None = None) -> pa.Schema:
    """Return a schema that `datasets` opens with real features; an `IMAGE` column becomes an Image feature.

    layout: dtypes and shapes of the columns, stored as JSON under the key `lightgen`.
    """
    features = {name: _feature(dtype) for name, dtype in fields.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if layout is not None:
        metadata["lightgen"] = json.dumps(layout, sort_keys=True)
    return pa.schema(list(fields.items()), metadata=metadata)


def _feature(dtype: pa.DataType) -> dict[str, object]:
    if dtype == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(dtype):
        return {"feature": _feature(dtype.value_type), "length": dtype.list_size, "_type": "List"}
    if pa.types.is_fixed_size_binary(dtype):
        return {"dtype": "binary", "_type": "Value"}
    return {"dtype": _HUGGING_FACE_TYPES[dtype], "_type": "Value"}


def layout_metadata(schema: pa.Schema) -> dict[str, object]:
    """Return the `layout` that a schema was made with."""
    return json.loads((schema.metadata or {}).get(b"lightgen", b"{}"))


def to_parquet(table: pa.Table) -> bytes:
    """Return the bytes of a Parquet file; equal tables give equal bytes.

    Columns of bytes (latents, text states: half-precision numbers, which hardly compress) are stored as they are, in
    one page of a row group, so that training computes a row's offset in the file (`lightgen_core/data`).
    """
    size = max(1, min(ROW_GROUP, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
    raw = [field.name for field in table.schema if field.type in (pa.binary(), pa.large_binary())]
    options: dict[str, Any] = {"compression": "zstd"}
    if raw:
        packed = [leaf for field in table.schema if field.name not in raw for leaf in _leaves(field.name, field.type)]
        options = {"compression": dict.fromkeys(packed, "zstd"), "use_dictionary": False, "data_page_size": 1 << 30}
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=size, **options)
    return buffer.getvalue()


def _leaves(path: str, dtype: pa.DataType) -> list[str]:
    """Return Parquet's column names of a field."""
    if pa.types.is_struct(dtype):
        return [leaf for field in dtype for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return _leaves(f"{path}.list.element", dtype.value_type)
    return [path]


def read_table(artifact: Artifact, pattern: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of all files that match a pattern, in order."""
    return pa.concat_tables(iter_tables(artifact, pattern, columns))


def iter_tables(artifact: Artifact, pattern: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield one table for each file that matches a pattern."""
    for name in artifact.names(pattern):
        yield read_file(artifact, name, columns)


def read_file(artifact: Artifact, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of one file, of a finished or unfinished artifact."""
    with artifact.open(name) as file:
        return pq.read_table(file, columns=list(columns) if columns else None)
