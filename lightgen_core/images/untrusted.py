"""Encoded pictures that may be damaged or hostile."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from lightgen_core.images.codec import resize_square, to_png
from lightgen_core.rejected import Reason, Rejected

_FORMATS = ("PNG", "JPEG", "WEBP")
# What Pillow's decoders raise on damaged data, by its own documentation and in practice.
_DECODER_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, zlib.error)


@dataclass(frozen=True)
class Untrusted:
    """Decodes pictures that may be damaged or hostile, and brings them to one size.

    Args:
        pixels: most pixels that a picture may have; what its header claims is judged before anything is decoded.
        size: side of the middle square to which the picture is resized, px; None: it stays as it is.
        expected: height and width, px, that the picture must then have; None: any.
    """

    pixels: int
    size: int | None = None
    expected: tuple[int, int] | None = None

    def encoded(self, data: bytes) -> bytes:
        """Return the picture as a PNG, or as the bytes it came in where these are a PNG or JPEG of the right size.

        Raises:
            Rejected: it is no picture, damaged, too large, or not as high and wide as expected.
        """
        picture, plain = self._decoded(data)
        fitted = self._fitted(picture)
        return data if plain and fitted is picture else to_png(fitted)

    def array(self, data: bytes) -> np.ndarray:
        """Return the picture as uint8 (height, width, 3). Raises Rejected as `encoded` does."""
        return self._fitted(self._decoded(data)[0])

    def _decoded(self, data: bytes) -> tuple[np.ndarray, bool]:
        """Return an upright RGB picture, and whether any reader of PNG and JPEG sees just that in the bytes."""
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                self._check(picture)
                picture.load()
                plain = picture.format in ("PNG", "JPEG") and picture.mode in ("RGB", "L") and not _turned(picture)
                return np.asarray(_opaque(ImageOps.exif_transpose(picture))), plain
        except Image.DecompressionBombError as error:
            raise Rejected(Reason.TOO_MANY_PIXELS, str(error)) from error
        except _DECODER_FAULTS as error:
            raise Rejected(_reason(data), f"{len(data)} bytes that begin with {data[:12]!a}: {error}") from error

    def _check(self, picture: Image.Image) -> None:
        if picture.width * picture.height > self.pixels:
            found = f"{picture.width} x {picture.height} px"
            raise Rejected(Reason.TOO_MANY_PIXELS, f"{found}; at most {self.pixels} pixels")
        if picture.mode.startswith(("I", "F")):
            raise Rejected(Reason.NOT_8_BIT, f"mode {picture.mode}")

    def _fitted(self, picture: np.ndarray) -> np.ndarray:
        fitted = picture if self.size is None else resize_square(picture, self.size)
        if self.expected is not None and self.expected != fitted.shape[:2]:
            (height, width), (high, wide) = fitted.shape[:2], self.expected
            raise Rejected(Reason.OTHER_SIZE, f"found {width} x {height} px, expected {wide} x {high} px")
        return fitted


def _turned(picture: Image.Image) -> bool:
    return picture.getexif().get(0x0112, 1) != 1


def _opaque(picture: Image.Image) -> Image.Image:
    """Put what is transparent on white: colours under it were never meant to be seen."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _reason(data: bytes) -> Reason:
    """Return why a picture cannot be decoded: a PNG or JPEG that is cut lacks its end mark, a WebP some bytes."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        cut = b"IEND" not in data[-16:]
    elif data.startswith(b"\xff\xd8\xff"):
        cut = b"\xff\xd9" not in data[-64:]
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        cut = len(data) < 8 + int.from_bytes(data[4:8], "little")
    else:
        return Reason.NOT_A_PICTURE
    return Reason.PICTURE_CUT if cut else Reason.PICTURE_DAMAGED
