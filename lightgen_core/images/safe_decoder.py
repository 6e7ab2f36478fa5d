"""Decode images that may be damaged or hostile."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from lightgen_core.images.codec import DECODER_ERRORS, encode_png, resize_square
from lightgen_core.rejected import Reason, Rejected

_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
"""Of several frames or pages the first one counts."""
_OTHER_STARTS = (b"GIF8", b"BM", b"II*\0", b"MM\0*")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class SafeImageDecoder:
    """Decode images that may be damaged or hostile, and resize them.

    Args:
        max_pixels: checked against the header before anything is decoded.
        size: side of the center crop, px; not resized if None.
        expected_size: height and width, px, after that; any if None.
        encode: for images that cannot stay as they are.
    """

    max_pixels: int
    size: int | None = None
    expected_size: tuple[int, ...] | None = None
    encode: Callable[[np.ndarray], bytes] = encode_png

    def reencode(self, data: bytes) -> bytes:
        """Return the given PNG or JPEG if its size is right, else the image encoded anew.

        Raises:
            Rejected: no image, damaged, too large or not of the expected size.
        """
        image, plain = self._decode(data)
        resized = self._resize(image)
        return data if plain and resized is image else self.encode(resized)

    def decode(self, data: bytes) -> np.ndarray:
        """Return a uint8 image (height, width, 3). Raises Rejected as `reencode` does."""
        return self._resize(self._decode(data)[0])

    def _decode(self, data: bytes) -> tuple[np.ndarray, bool]:
        """Return an upright RGB image, and true if any plain decoder gives the same.

        A PNG that cannot be read is tried again without its metadata, whose faults are not the image's.
        """
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                self._check(image)
                image.load()
                upright = _upright(_to_8_bit(image))
                plain = image.format in ("PNG", "JPEG") and image.mode in ("RGB", "L") and upright is image
                return np.asarray(_composite_on_white(upright)), plain and not image.has_transparency_data
        except Image.DecompressionBombError as error:
            raise Rejected(Reason.TOO_MANY_PIXELS, str(error)) from error
        except DECODER_ERRORS as error:
            if (bare := _without_metadata(data)) != data:
                with suppress(Rejected):
                    return self._decode(bare)[0], False
            raise Rejected(_reason(data), f"{len(data)} bytes that begin with {data[:12]!a}: {error}") from error

    def _check(self, image: Image.Image) -> None:
        if image.width * image.height > self.max_pixels:
            size = f"{image.width} x {image.height} px"
            raise Rejected(Reason.TOO_MANY_PIXELS, f"{size}; at most {self.max_pixels} pixels")
        if image.mode.startswith(("I", "F")) and not _is_16_bit_png(image):
            raise Rejected(Reason.NOT_8_BIT, f"mode {image.mode}")

    def _resize(self, image: np.ndarray) -> np.ndarray:
        resized = image if self.size is None else resize_square(image, self.size)
        if self.expected_size is not None and self.expected_size != resized.shape[:2]:
            (height, width), expected = resized.shape[:2], self.expected_size
            raise Rejected(Reason.OTHER_SIZE, f"found {width} x {height} px, expected {expected[1]} x {expected[0]} px")
        return resized


def _is_16_bit_png(image: Image.Image) -> bool:
    """Return whether grey values span 16 bits; of other files the range is not known."""
    return image.format == "PNG" and image.mode == "I;16"


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Return the upper bits of grey values of 16 bits, as Pillow reads colours of 16 bits."""
    if not _is_16_bit_png(image):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    """Return the image itself, a turned one if its EXIF says so, or a copy if the EXIF is damaged."""
    try:
        return image if image.getexif().get(0x0112, 1) == 1 else ImageOps.exif_transpose(image)
    except DECODER_ERRORS:
        return image.copy()


def _without_metadata(data: bytes) -> bytes:
    """Return of a PNG the critical chunks and transparency (PNG, 5.4: all others begin with a small letter)."""
    if not data.startswith(_PNG):
        return data
    kept, start = [_PNG], len(_PNG)
    while len(header := data[start : start + 8]) == 8:
        end = start + 12 + int.from_bytes(header[:4], "big")
        if header[4:5].isupper() or header[4:] == b"tRNS":
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _composite_on_white(image: Image.Image) -> Image.Image:
    """Composite on white: colours under transparent pixels were never meant to be seen."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _reason(data: bytes) -> Reason:
    """Return the reason of a decoding error; a truncated PNG or JPEG lacks its end marker, a WebP some bytes."""
    if data.startswith(_PNG):
        truncated = b"IEND" not in data[-16:]
    elif data.startswith(b"\xff\xd8\xff"):
        truncated = b"\xff\xd9" not in data[-64:]
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        truncated = len(data) < 8 + int.from_bytes(data[4:8], "little")
    elif data.startswith(_OTHER_STARTS) or data[4:12] in (b"ftypavif", b"ftypavis"):
        truncated = False
    else:
        return Reason.NOT_AN_IMAGE
    return Reason.IMAGE_TRUNCATED if truncated else Reason.IMAGE_CORRUPT
