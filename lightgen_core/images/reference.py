"""Images named or embedded in a row: bytes, base64, or the path of a file of the set."""

import base64
import binascii
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from lightgen_core.images.files import Files
from lightgen_core.images.sample import checked_member_name
from lightgen_core.rejected import Reason, Rejected

IMAGE_COLUMNS = (
    "image", "file_name", "images", "jpg", "jpeg", "png", "webp", "img", "filename", "image_path", "image_file", "path",
    "file", "filepath", "file_path", "image_bytes", "image_base64",
)  # fmt: skip
"""Usual names of images in JSON and tables, as bytes, base64 or paths; the first one counts."""
_BASE64 = re.compile(r"(/9j/|iVBOR|UklGR|R0lGO|Qk|SUkq|TU0A|AAAA)[A-Za-z0-9+/\s]{60,}={0,2}\s*")
"""Base64 of the first bytes of a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF."""
_ADDRESS = re.compile(r"(?!file:)[A-Za-z][\w+.-]+://")
_TAIL_PARTS = 4


def resolve_reference(files: Files, folder: str, text: str) -> str:
    """Return the name of the file that a path in a row of `folder` means.

    It is taken as written, with slashes for backslashes; then without percent encoding; then, from the root of the set;
    an absolute one of another machine by the longest end that the set has, of four parts at most.

    Raises:
        Rejected: an address, a path out of the set, or no such file.
    """
    rejected: Rejected | None = None
    for candidate in _candidates(folder, plain_path(text)):
        try:
            name = checked_member_name(posixpath.normpath(candidate).encode(errors="surrogateescape"))
            if files.exists(name):
                return name
        except Rejected as error:
            rejected = rejected or error.without_frames()
    raise rejected or Rejected(Reason.NO_IMAGE, f"there is no {text[:200]!a} in the set")


def plain_path(text: str) -> str:
    """Return a path with slashes and without protocol. Raises Rejected: an address."""
    if _ADDRESS.match(text):
        raise Rejected(Reason.NO_IMAGE, f"{text[:200]!a} is not fetched: download the images, as img2dataset does")
    return text.removeprefix("file://").replace("\\", "/").strip()


def _candidates(folder: str, path: str) -> Iterator[str]:
    if path.startswith("/") or re.match(r"[A-Za-z]:/", path):
        parts = [part for part in PurePosixPath(path).parts if part != "/"]
        for count in range(min(len(parts), _TAIL_PARTS), 0, -1):
            yield str(PurePosixPath(folder, *parts[-count:]))
        return
    for text in dict.fromkeys((path, unquote(path))):
        yield str(PurePosixPath(folder, text))
    if folder not in ("", "."):
        yield path


def embedded_bytes(value: Any) -> bytes | None:
    """Return the image that a value holds, as bytes or base64; None if it is a path. Raises Rejected."""
    if isinstance(value, Mapping):
        inner = value.get("bytes") if value.get("bytes") is not None else value.get("base64")
        return embedded_bytes(inner) if inner is not None else None
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and (value.startswith("data:") or _BASE64.fullmatch(value)):
        try:
            return base64.b64decode(value.rpartition(",")[2])
        except (binascii.Error, ValueError) as error:
            raise Rejected(Reason.IMAGE_CORRUPT, f"base64: {error}") from error
    return None


def path_of(value: Any) -> str:
    """Return the path that a value holds. Raises Rejected."""
    path = (
        next((value[key] for key in ("path", "file_name") if value.get(key)), None)
        if isinstance(value, Mapping)
        else value
    )
    if not isinstance(path, str) or not path.strip():
        found = "nothing" if path is None or path == "" else type(path).__name__
        raise Rejected(Reason.NO_IMAGE, f"expected an image or a path, found {found}")
    return path


def read_image(files: Files, folder: str, value: Any, limit: int) -> bytes:
    """Return the encoded image that a value of a row in `folder` holds or names. Raises Rejected."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    data = embedded_bytes(value)
    if data is None:
        data = files.read(resolve_reference(files, folder, path_of(value)), limit)
    if data is None or len(data) > limit:
        size = "" if data is None else f"{len(data)} bytes; "
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{size}at most {limit} bytes")
    return data
