"""Read tars that may be hostile: every size is checked and nothing is extracted.

The formats are POSIX ustar and pax (IEEE Std 1003.1, pax) and GNU's long names, plain or gzipped. Python's `tarfile` is
for archives that are trusted: it follows links, and allocates as much memory as a header says.
"""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from lightgen_core.images.sample import checked_member_name
from lightgen_core.rejected import Reason, Rejected

BLOCK = 512
LONG_NAME_BYTES = 1 << 14
PAX_BYTES = 1 << 20
MAX_COMPRESSION_RATIO = 100
"""Limit of expansion, checked from `RATIO_CHECK_FROM` bytes on. Captions reach 10, images 1."""
RATIO_CHECK_FROM = 1 << 26
_STEP = 1 << 20
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_DIRECTORY = b"5"


class Stream:
    """A plain or gzipped file, read forward in bounded steps; `Rejected` if it ends early or is damaged."""

    def __init__(self, file: BinaryIO) -> None:
        self._raw = file
        compressed = self._raw.read(2) == b"\x1f\x8b"
        self._size = self._raw.seek(0, os.SEEK_END)
        self._raw.seek(0)
        self._inflate: BinaryIO | None = gzip.GzipFile(fileobj=self._raw) if compressed else None  # type: ignore[assignment]
        self.at = 0

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        return b"".join(self._blocks(count))

    def skip_to(self, position: int) -> None:
        """Skip forward to a byte position."""
        if self._inflate is None and position <= self._size:
            self._raw.seek(position)
            self.at = position
            return
        for _ in self._blocks(position - self.at):
            pass

    def _blocks(self, count: int) -> Iterator[bytes]:
        end = self.at + count
        if self._inflate is None and end > self._size:
            raise Rejected(Reason.ARCHIVE_TRUNCATED, f"{self._size} bytes; at least {end} expected")
        while self.at < end:
            block = self._read(min(_STEP, end - self.at))
            if not block:
                raise Rejected(Reason.ARCHIVE_TRUNCATED, f"{self.at} bytes; at least {end} expected")
            self.at += len(block)
            if self._inflate is not None and self.at > max(RATIO_CHECK_FROM, MAX_COMPRESSION_RATIO * self._raw.tell()):
                raise Rejected(Reason.ARCHIVE_BOMB, f"{self._raw.tell()} bytes became {self.at} and more")
            yield block

    def _read(self, limit: int) -> bytes:
        if self._inflate is None:
            return self._raw.read(limit)
        try:
            return self._inflate.read(limit)
        except EOFError as error:
            raise Rejected(Reason.ARCHIVE_TRUNCATED, f"compressed data end after byte {self.at}") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise Rejected(Reason.ARCHIVE_CORRUPT, f"compressed data after byte {self.at}: {error}") from error


@dataclass(frozen=True)
class Member:
    """A regular file in the archive: name, position, size, and bytes if requested."""

    name: str
    start: int
    size: int
    data: bytes | None


def members(stream: Stream, needs_data: Callable[[str, int], bool]) -> Iterator[Member | tuple[str, Rejected]]:
    """Yield the regular files of a tar, and name and error of rejected members.

    Args:
        needs_data: from a name and a size, whether to read the member's bytes. A member is yielded after all of its
            bytes have been read or skipped, so a truncated one never is.

    Raises:
        Rejected: the archive cannot be read any further.
    """
    extended: dict[bytes, bytes] = {}
    while (header := _next_header(stream)) is not None:
        if header.type in (b"L", b"K"):
            text = _extension(stream, header, LONG_NAME_BYTES).rstrip(b"\0")
            extended |= {b"path": text} if header.type == b"L" else {}
        elif header.type in (b"x", b"g"):
            records = _pax(_extension(stream, header, PAX_BYTES))
            extended |= records if header.type == b"x" else {}
        else:
            yield from _member(stream, header, extended, needs_data)
            extended = {}


def _member(
    stream: Stream, header: "_Header", extended: Mapping[bytes, bytes], needs_data: Callable[[str, int], bool]
) -> Iterator[Member | tuple[str, Rejected]]:
    """Read or skip a member and yield it; a folder yields nothing."""
    raw, start = extended.get(b"path", header.name), stream.at
    size = 0 if header.type in _WITHOUT_DATA else _pax_size(extended.get(b"size"), header.size)
    sparse = any(key.startswith(b"GNU.sparse") for key in extended)
    data, error, name = None, None, ""
    try:
        name = checked_member_name(raw)
        if header.type not in _REGULAR or sparse:
            raise Rejected(Reason.SPECIAL_FILE, f"tar type {'sparse' if sparse else ascii(header.type)}")
        data = stream.take(size) if needs_data(name, size) else None
    except Rejected as rejected:
        if rejected.reason not in (Reason.UNSAFE_PATH, Reason.NAME_ENCODING, Reason.SPECIAL_FILE):
            raise  # of the archive, not of the member
        error = rejected.without_frames()
    stream.skip_to(start + _padded(size))
    if header.type == _DIRECTORY or (header.type in _REGULAR and raw.endswith(b"/")):
        return
    yield (ascii(raw[:200])[2:-1], error) if error else Member(name, start, size, data)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class _Header(NamedTuple):
    name: bytes
    size: int
    type: bytes


def _next_header(stream: Stream) -> _Header | None:
    """Read a header; None at the end marker, without which a tar is truncated."""
    at, block = stream.at, stream.take(BLOCK)
    if not any(block):
        return None
    declared = _number(block[148:156], at)
    if declared != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise Rejected(Reason.ARCHIVE_CORRUPT, f"no tar header at byte {at}")
    name, prefix = _text(block[:100]), _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return _Header(prefix + b"/" + name if prefix else name, _number(block[124:136], at), block[156:157])


def _text(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _number(raw: bytes, at: int) -> int:
    """Read an octal number, or one in GNU's base 256."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = re.fullmatch(rb" *([0-7]*)[ \0]*", raw)
    if not digits:
        raise Rejected(Reason.ARCHIVE_CORRUPT, f"no tar header at byte {at}: number {raw!a}")
    return int(digits[1] or b"0", 8)


def _extension(stream: Stream, header: _Header, limit: int) -> bytes:
    if header.size > limit:
        raise Rejected(Reason.ARCHIVE_CORRUPT, f"an extended header of {header.size} bytes at byte {stream.at}")
    start = stream.at
    data = stream.take(header.size)
    stream.skip_to(start + _padded(header.size))
    return data


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Read records of the form "length key=value\\n"."""
    records: dict[bytes, bytes] = {}
    while data.rstrip(b"\0"):
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length].partition(b"=")
        if not (equals and value.endswith(b"\n") and length <= len(data)):
            raise Rejected(Reason.ARCHIVE_CORRUPT, f"an extended header that says {data[:40]!a}")
        records[key] = value[:-1]
        data = data[length:]
    return records


def _pax_size(text: bytes | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or len(text) > 20:
        raise Rejected(Reason.ARCHIVE_CORRUPT, f"an extended header with size {text[:40]!a}")
    return int(text)
