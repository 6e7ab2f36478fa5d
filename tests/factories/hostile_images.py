"""Images and captions that are damaged or hostile, by name, with the reason that must be found for each."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from lightgen_core.rejected import Reason

PIXELS, BYTES = 250_000, 100_000
"""Limits of pixels and bytes that the damages below exceed."""


def encoded_image(
    rng: random.Random, format: str = "JPEG", size: tuple[int, int] = (48, 48), mode: str = "RGB"
) -> bytes:
    """An image with some structure and some noise, whole."""
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(sink, format=format)
    return sink.getvalue()


def png(width: int, height: int, data: bytes, depth: int = 8, extra: bytes = b"") -> bytes:
    """A PNG put together by hand, with right checksums: its header may claim anything."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    body = [chunk(name, content) for name, content in chunks]
    return b"\x89PNG\r\n\x1a\n" + body[0] + extra + b"".join(body[1:])


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(16, len(data) * 9 // 10)]


def _flipped(rng: random.Random, data: bytes) -> bytes:
    """A PNG with some bits of its compressed pixels changed."""
    place = rng.randrange(data.index(b"IDAT") + 8, len(data) - 20)
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


PICTURES: dict[str, tuple[Callable[[random.Random], bytes], Reason]] = {
    "cut jpeg": (lambda rng: _cut(rng, encoded_image(rng)), Reason.IMAGE_TRUNCATED),
    "cut png": (lambda rng: _cut(rng, encoded_image(rng, "PNG")), Reason.IMAGE_TRUNCATED),
    "cut webp": (lambda rng: _cut(rng, encoded_image(rng, "WEBP")), Reason.IMAGE_TRUNCATED),
    "png with flipped bits": (lambda rng: _flipped(rng, encoded_image(rng, "PNG")), Reason.IMAGE_CORRUPT),
    "png that claims to be huge": (lambda rng: png(rng.randrange(501, 1 << 31), 500, b""), Reason.TOO_MANY_PIXELS),
    "png that is huge": (lambda rng: png(2000, 2000, bytes(2001 * 2000)), Reason.TOO_MANY_PIXELS),
    "png beyond Pillow's own limit": (lambda rng: png(60_000, 60_000, b""), Reason.TOO_MANY_PIXELS),
    "jpeg that is huge": (lambda rng: encoded_image(rng, "JPEG", (501, 500)), Reason.IMAGE_TOO_LARGE),
    "a TIFF of numbers": (lambda rng: encoded_image(rng, "TIFF", (8, 8), "F"), Reason.NOT_8_BIT),
    "random bytes": (lambda rng: rng.randbytes(rng.randrange(1, 2000)), Reason.NOT_AN_IMAGE),
    "no bytes": (lambda rng: b"", Reason.NOT_AN_IMAGE),
    "a web page": (lambda rng: b"<html>404 Not Found</html>", Reason.NOT_AN_IMAGE),
    "a drawing in SVG": (lambda rng: b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.NOT_AN_IMAGE),
    "a cut GIF": (lambda rng: encoded_image(rng, "GIF")[:20], Reason.IMAGE_CORRUPT),
    "a HEIC": (lambda rng: b"\0\0\0\x18ftypheic" + rng.randbytes(100), Reason.NOT_AN_IMAGE),
    "a program": (lambda rng: b"\x7fELF" + rng.randbytes(100), Reason.NOT_AN_IMAGE),
    "too many bytes": (lambda rng: encoded_image(rng, "JPEG") + bytes(BYTES), Reason.IMAGE_TOO_LARGE),
}

CAPTIONS: dict[str, tuple[str, Callable[[random.Random], bytes], Reason]] = {
    "text that is not UTF-8": ("txt", lambda rng: b"caf\xe9 " + rng.randbytes(8) + b"\xff", Reason.CAPTION_ENCODING),
    "UTF-16 without its mark": ("txt", lambda rng: "a cat".encode("utf-16-le"), Reason.CAPTION_ENCODING),
    "a lone surrogate": ("json", lambda rng: b'{"prompt": "a \\ud800 cat"}', Reason.CAPTION_ENCODING),
    "no text": ("txt", lambda rng: b"", Reason.CAPTION_EMPTY),
    "white space": ("txt", lambda rng: b" \n\t \xc2\xa0" * rng.randrange(1, 50), Reason.CAPTION_EMPTY),
    "an empty caption": ("json", lambda rng: b'{"prompt": ""}', Reason.CAPTION_EMPTY),
    "cut JSON": ("json", lambda rng: b'{"prompt": "a cat", "wid', Reason.CAPTION_JSON),
    "JSON too deep": ("json", lambda rng: b"[" * 100_000, Reason.CAPTION_JSON),
    "a number too long": ("json", lambda rng: b'{"prompt": ' + b"9" * 5000 + b"}", Reason.CAPTION_JSON),
    "a list": ("json", lambda rng: b'["a cat"]', Reason.CAPTION_FIELD),
    "another field": ("json", lambda rng: b'{"width": 5}', Reason.CAPTION_FIELD),
    "a caption of null": ("json", lambda rng: b'{"prompt": null}', Reason.CAPTION_FIELD),
    "a caption of objects": ("json", lambda rng: b'{"caption": {"text": "a cat"}}', Reason.CAPTION_FIELD),
    "a long caption": ("txt", lambda rng: b"cat " * 4000, Reason.CAPTION_TOO_LONG),
    "a huge file": ("json", lambda rng: b'{"prompt": "' + b"a" * (1 << 20) + b'"}', Reason.CAPTION_TOO_LONG),
}
