"""Encode, decode and resize images."""

import io

import numpy as np
from PIL import Image


def encode_png(image: np.ndarray) -> bytes:
    """Encode a uint8 image (height, width, 3) as PNG, deterministically."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image that this package wrote to uint8 (height, width, 3); for others see `SafeImageDecoder`."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """Center-crop a uint8 image (height, width, 3) and resize to (size, size, 3), Lanczos."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    # Cropped first: a filter over a box of the full image would read pixels outside the box.
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def suffix_of(data: bytes) -> str:
    """Return the file suffix of a PNG or JPEG."""
    return "png" if data.startswith(b"\x89PNG") else "jpg"
