"""Number formats by name: of arithmetic, and of the half-precision bytes that tokens are stored in."""

import numpy as np
import torch

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Formats of stored values."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Formats of weights and arithmetic."""


def fits(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return for each row of values (rows, ...) whether all of them are finite when rounded to a stored format."""
    return torch.isfinite(values.to(DTYPES[dtype])).flatten(1).all(dim=1)


def to_bytes(values: np.ndarray | torch.Tensor, dtype: str) -> bytes:
    """Return float values, flat and little-endian, rounded to "float16" or "bfloat16".

    Raises:
        ValueError: a value is too large for float16, which would be stored as an infinity.
    """
    rounded = torch.as_tensor(values).cpu().contiguous().to(DTYPES[dtype])
    if not torch.isfinite(rounded).all():
        raise ValueError("a value does not fit float16 (largest 65504); set tokens.dtype=bfloat16")
    return rounded.view(torch.int16).numpy().tobytes()


def from_bytes(values: bytes, dtype: str) -> torch.Tensor:
    """Return what `to_bytes` stored, flat, as float32."""
    return torch.frombuffer(bytearray(values), dtype=torch.int16).view(DTYPES[dtype]).float()
