"""A map of embeddings: their principal components, read a batch of rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.browse.catalogue import Known
from flows.browse.rows import open_parquet

COMPONENTS = 6
MAX_POINTS = 100_000
"""Most points of a map; of more rows every second, third ... is shown."""
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class EmbeddingMap:
    """Points of a map.

    Attributes:
        ids: (n,) int64 of the images.
        points: (n, components) float32.
        explained: (components,) share of the variance.
        rows: images in all, of which every `step`-th is a point.
    """

    ids: npt.NDArray[np.int64]
    points: npt.NDArray[np.float32]
    explained: npt.NDArray[np.float64]
    rows: int
    step: int


def project(embeddings: Known, column: str = "image") -> EmbeddingMap:
    """Return the principal components of a column of vectors, by the eigenvectors of their covariance."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for _, vectors in _batches(embeddings, column):
        wide = vectors.astype(np.float64)
        count, total, squares = count + len(wide), total + wide.sum(axis=0), squares + wide.T @ wide
    if count < 2:
        raise ValueError(f"{embeddings.artifact.path} has {count} vectors; a map needs two")
    mean = total / count
    values, axes = np.linalg.eigh(squares / count - np.outer(mean, mean))
    axes = axes[:, ::-1][:, :COMPONENTS]
    axes *= np.where(axes.sum(axis=0) < 0, -1, 1)  # the sign of an eigenvector is arbitrary
    step = -(-count // MAX_POINTS)
    ids, points, start = [], [], 0
    for numbers, vectors in _batches(embeddings, column):
        chosen = slice(-start % step, None, step)
        ids.append(numbers[chosen])
        points.append(((vectors[chosen] - mean) @ axes).astype(np.float32))
        start += len(numbers)
    explained = np.clip(values[::-1][:COMPONENTS], 0, None) / max(values.sum(), 1e-12)
    return EmbeddingMap(np.concatenate(ids), np.concatenate(points), explained, count, step)


def _batches(embeddings: Known, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids (n,) and vectors (n, dimensions)."""
    for name in embeddings.artifact.names("^embeddings"):
        with open_parquet(embeddings, name) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=["id", column]):
                if len(batch):
                    yield batch["id"].to_numpy(), batch[column].flatten().to_numpy().reshape(len(batch), -1)
