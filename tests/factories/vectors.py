"""Vectors for searches."""

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at length 1, in fp32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
