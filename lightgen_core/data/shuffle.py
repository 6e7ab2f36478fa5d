"""The order in which training sees the rows: a permutation an epoch, a pure function of the seed."""

from functools import lru_cache

import numpy as np

from lightgen_core.seeds import derive_seed


def rows_at(positions: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Return the rows at positions of the endless training order.

    Epoch e holds positions e * rows to (e + 1) * rows - 1 and visits every row once, in an order of its own. Batch
    size, world size and number of readers do not change it, and one integer resumes it.

    Args:
        positions: int64 array, 0 or more, of any shape.
        rows: number of rows in the set.
    """
    epochs, offsets = np.divmod(np.asarray(positions, dtype=np.int64), rows)
    result = np.empty_like(offsets)
    for epoch in np.unique(epochs).tolist():
        inside = epochs == epoch
        result[inside] = epoch_order(epoch, rows, seed)[offsets[inside]]
    return result


@lru_cache(maxsize=2)  # of the epoch that ends and of the one that begins
def epoch_order(epoch: int, rows: int, seed: int) -> np.ndarray:
    """Return a permutation of range(rows), int64 (rows,): 8 bytes a row, and 8 s for 100 million rows."""
    return np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(rows)
