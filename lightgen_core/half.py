"""Half-precision numbers as bytes, in the two formats that tokens are stored in."""

import numpy as np
import torch

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def to_bytes(values: np.ndarray | torch.Tensor, dtype: str) -> bytes:
    """Return float values, flat and little-endian, rounded to "float16" or "bfloat16".

    Raises:
        ValueError: a value is too large for float16, which would be stored as an infinity.
    """
    rounded = torch.as_tensor(values).cpu().contiguous().to(DTYPES[dtype])
    if not torch.isfinite(rounded).all():
        raise ValueError("a value does not fit float16 (largest 65504); set tokens.dtype=bfloat16")
    return rounded.view(torch.int16).numpy().tobytes()
