"""Pictures: PNG encoding, decoding, resizing."""

import io

import numpy as np
from PIL import Image


def to_png(picture: np.ndarray) -> bytes:
    """Return a uint8 picture (height, width, 3) as a PNG; the same picture gives the same bytes."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, format="PNG", compress_level=6)
    return sink.getvalue()


def from_bytes(data: bytes) -> np.ndarray:
    """Return an encoded picture of our own as uint8 (height, width, 3); others' pictures go through `untrusted`."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def resize_square(picture: np.ndarray, size: int) -> np.ndarray:
    """Return the middle square of a uint8 picture (height, width, 3), as (size, size, 3) by a Lanczos filter."""
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    # Cropped first: a filter over a box of the whole picture would read what is beyond the box.
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def suffix_of(data: bytes) -> str:
    """Return the file suffix of a PNG or JPEG."""
    return "png" if data.startswith(b"\x89PNG") else "jpg"
