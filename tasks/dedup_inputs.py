"""The columns that the stage dedup compares, gathered into memory-mapped files of its scratch folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.artifact import Artifact
from storage.tables import iter_tables, read_table
from tasks.context.context import StageContext


@dataclass(frozen=True)
class ScoredImages:
    """Score, digest of the pixels, and arrays of each image, in the order of the files."""

    ids: np.ndarray
    scores: np.ndarray
    shown: np.ndarray
    """(n,) bool: images that pass the filters; the following are of these only."""
    vectors: np.ndarray
    pixels: list[str]
    hashes: np.ndarray | None
    thumbnails: np.ndarray | None


def gather(
    ctx: StageContext,
    embeddings: Artifact,
    ids: np.ndarray,
    scores: np.ndarray,
    shown: np.ndarray,
    *,
    copies: bool,
) -> ScoredImages:
    """Gather the images that are `shown`, of all ids and scores, (n,) each; with `copies` hashes and thumbnails too."""
    from lightgen_core.dedup.copy_features import HASH_BYTES, THUMBNAIL, VIEWS

    columns = {"image": np.dtype(np.float32)} | ({"hashes": np.uint8, "thumbnail": np.uint8} if copies else {})
    arrays = {
        name: _mapped(ctx.scratch / f"{name}.npy", embeddings, name, shown, dtype) for name, dtype in columns.items()
    }
    pixels = read_table(embeddings, "^embeddings", ["pixels"])["pixels"].filter(pa.array(shown)).to_pylist()
    rows = int(shown.sum())
    hashes = arrays["hashes"].reshape(rows, VIEWS, HASH_BYTES) if copies else None
    thumbnails = arrays["thumbnail"].reshape(rows, THUMBNAIL, THUMBNAIL, 3) if copies else None
    return ScoredImages(ids, scores, shown, arrays["image"], pixels, hashes, thumbnails)


def _mapped(path: Path, embeddings: Artifact, column: str, shown: np.ndarray, dtype: Any) -> np.ndarray:
    """Return a column's rows as a memory map, written unless an earlier run has done so."""
    if not path.exists():
        part, out, start, row = path.with_suffix(".part"), None, 0, 0
        for table in iter_tables(embeddings, "^embeddings", [column]):
            values = _values(table[column].combine_chunks(), dtype)[shown[row : row + len(table)]]
            if out is None:
                out = np.lib.format.open_memmap(part, "w+", dtype, (int(shown.sum()), values.shape[1]))
            out[start : start + len(values)] = values
            start, row = start + len(values), row + len(table)
        assert out is not None, "the filters leave at least one image"
        out.flush()
        part.replace(path)
    return np.load(path, mmap_mode="r")


def _values(column: pa.Array, dtype: Any) -> np.ndarray:
    """Return (rows, width) of a column of vectors or of equally many bytes."""
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), -1)
    return np.frombuffer(b"".join(column.to_pylist()), dtype).reshape(len(column), -1)
