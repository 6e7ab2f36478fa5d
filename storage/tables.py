"""Parquet files: how tables become bytes, the column types all stages share, and reading a table back."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An encoded picture, in the form that Hugging Face `datasets` knows as its Image feature."""

ROW_GROUP = 1024
"""Most rows of a row group, the unit that a reader takes from a file at once."""

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


def schema(fields: Mapping[str, pa.DataType], about: Mapping[str, object] | None = None) -> pa.Schema:
    """Return a schema that `datasets.load_dataset("parquet")` opens with real features.

    Args:
        fields: column types by name; `IMAGE` columns become Image features.
        about: what a reader must know of the columns (dtypes, shapes), stored as JSON under the key `lightgen`.
    """
    features = {name: _feature(kind) for name, kind in fields.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if about is not None:
        metadata["lightgen"] = json.dumps(about, sort_keys=True)
    return pa.schema(list(fields.items()), metadata=metadata)


def _feature(kind: pa.DataType) -> dict[str, object]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_fixed_size_binary(kind):
        return {"dtype": "binary", "_type": "Value"}
    return {"dtype": _HUGGING_FACE_TYPES[kind], "_type": "Value"}


def about(found: pa.Schema) -> dict[str, object]:
    """Return what `schema` was given as `about`."""
    return json.loads((found.metadata or {}).get(b"lightgen", b"{}"))


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file; the same table gives the same bytes.

    Columns of bytes (latents, text states: half-precision numbers, which hardly compress) are stored as they are, in
    one page of a row group, so that training finds a row in the file by arithmetic (`lightgen_core/data`).
    """
    size = max(1, min(ROW_GROUP, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
    raw = [field.name for field in table.schema if field.type in (pa.binary(), pa.large_binary())]
    how: dict[str, Any] = {"compression": "zstd"}
    if raw:
        packed = [leaf for field in table.schema if field.name not in raw for leaf in _leaves(field.name, field.type)]
        how = {"compression": dict.fromkeys(packed, "zstd"), "use_dictionary": False, "data_page_size": 1 << 30}
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=size, **how)
    return sink.getvalue()


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    """Return the names that Parquet gives the columns of a field."""
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [path]


def read_table(artifact: Artifact, pattern: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of all files of an artifact whose name matches, in order."""
    return pa.concat_tables(iter_tables(artifact, pattern, columns))


def iter_tables(artifact: Artifact, pattern: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the files of an artifact whose name matches, one table each."""
    for name in artifact.names(pattern):
        yield read_file(artifact, name, columns)


def read_file(artifact: Artifact, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of one file, of a finished artifact or of one in the making."""
    with artifact.open(name) as file:
        return pq.read_table(file, columns=list(columns) if columns else None)
