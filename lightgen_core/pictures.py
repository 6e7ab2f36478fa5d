"""Pictures as bytes: PNG encoding and decoding."""

import io

import numpy as np
from PIL import Image


def to_png(picture: np.ndarray) -> bytes:
    """Return a uint8 picture (height, width, 3) as a PNG; the same picture gives the same bytes."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, format="PNG", compress_level=6)
    return sink.getvalue()


def from_bytes(data: bytes) -> np.ndarray:
    """Return an encoded picture as uint8 (height, width, 3)."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
