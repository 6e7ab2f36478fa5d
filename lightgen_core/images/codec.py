"""Encode, decode and resize images."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
from PIL import Image

ImageFormat = Literal["png", "webp", "jpeg"]

DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, zlib.error)
"""Errors of Pillow's decoders on damaged data, by its documentation and in practice."""

# Chosen by time and size (docs/performance.md). A photograph's rows hold hardly a repetition for PNG's search to find,
# so runs and Huffman codes alone are as small, several times faster. WebP with the least effort is smaller than PNG.
_PNG: dict[str, Any] = {"compress_type": zlib.Z_RLE}
_LOSSLESS_WEBP: dict[str, Any] = {"lossless": True, "quality": 20, "method": 0}
_JPEG_QUALITY = 95


def encode_image(image: np.ndarray, format: ImageFormat = "png", quality: int | None = None) -> bytes:
    """Encode a uint8 image (height, width, 3), deterministically.

    quality: 1 to 100; JPEG: 95 if None, and colours in full resolution; WebP: lossless if None; PNG: not used.
    """
    options: dict[str, Any] = _PNG
    if format == "webp":
        options = _LOSSLESS_WEBP if quality is None else {"quality": quality, "method": 0}
    elif format == "jpeg":
        options = {"quality": quality or _JPEG_QUALITY, "subsampling": 0}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=format, **options)
    return buffer.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """Encode a uint8 image (height, width, 3) as PNG, deterministically."""
    return encode_image(image)


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image that this package wrote to uint8 (height, width, 3); for others see `SafeImageDecoder`."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """Center-crop a uint8 image (height, width, 3) and resize to (size, size, 3), Lanczos."""
    return crop_and_resize(image, size, size)


def crop_and_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Center-crop a uint8 image (h, w, 3) to the aspect ratio of (height, width, 3) and resize to it, Lanczos.

    The crop has whole pixels: its ratio is off by half a pixel at most.
    """
    own_height, own_width = image.shape[:2]
    if (own_height, own_width) == (height, width):
        return image
    if own_width * height > own_height * width:
        crop_height, crop_width = own_height, max(1, round(own_height * width / height))
    else:
        crop_height, crop_width = max(1, round(own_width * height / width)), own_width
    left, top = (own_width - crop_width) // 2, (own_height - crop_height) // 2
    # Cropped first: a filter over a box of the full image would read pixels outside the box.
    crop = Image.fromarray(image[top : top + crop_height, left : left + crop_width])
    return np.array(crop.resize((width, height), Image.Resampling.LANCZOS))


def image_shape(data: bytes) -> tuple[int, int]:
    """Return height and width, px, of an image that this package wrote, from its header."""
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


def suffix_of(data: bytes) -> str:
    """Return the file suffix of a PNG, WebP or JPEG."""
    return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"
