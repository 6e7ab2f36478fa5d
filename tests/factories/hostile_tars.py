"""Tars put together by hand: members of any kind, and archives that end too early in every way."""

import gzip
import io
import random
import tarfile
from collections.abc import Callable

from lightgen_core.rejected import Reason
from tests.factories.hostile_images import encoded_image


def header(name: bytes, size: int, kind: bytes = tarfile.REGTYPE, field: bytes | None = None) -> bytes:
    """A tar header by hand; `field` replaces the twelve bytes of the size."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[124:136] = b"0000644\0", field or b"%011o\0" % size
    block[156:157], block[157:167] = kind, b"/etc/passwd"[:10]
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Header and padded data."""
    return header(name, len(data), kind) + data + bytes(-len(data) % 512)


END = bytes(1024)


def bomb(rng: random.Random, right: bytes) -> bytes:
    """Right members, and then one that promises 200 MB of zeros and keeps the promise."""
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(right + header(b"bomb.jpg", 200 << 20))
        for _ in range(200):
            file.write(bytes(1 << 20))
    return sink.getvalue()


def _cut_gzip(rng: random.Random, right: bytes) -> bytes:
    whole = gzip.compress(right + member(b"x.jpg", rng.randbytes(5000)), mtime=0)
    return whole[: rng.randrange(len(whole) - 4000, len(whole) - 100)]


ARCHIVES: dict[str, tuple[Callable[[random.Random, bytes], bytes], Reason]] = {
    "cut in data": (
        lambda rng, right: right + member(b"x.jpg", bytes(2000))[: rng.randrange(600, 2000)],
        Reason.ARCHIVE_TRUNCATED,
    ),
    "cut in a header": (
        lambda rng, right: right + header(b"x.jpg", 9)[: rng.randrange(1, 511)],
        Reason.ARCHIVE_TRUNCATED,
    ),
    "cut between members": (lambda rng, right: right, Reason.ARCHIVE_TRUNCATED),
    "cut before the partner": (
        lambda rng, right: right + member(b"x.jpg", encoded_image(rng)),
        Reason.ARCHIVE_TRUNCATED,
    ),
    "nothing at all": (lambda rng, right: b"", Reason.ARCHIVE_TRUNCATED),
    "nothing but noise": (lambda rng, right: b"\1" + rng.randbytes(5000), Reason.ARCHIVE_CORRUPT),
    "noise after a member": (lambda rng, right: right + b"\1" + rng.randbytes(5000), Reason.ARCHIVE_CORRUPT),
    "huge size": (lambda rng, right: right + header(b"x.jpg", 1 << 32) + bytes(512), Reason.ARCHIVE_TRUNCATED),
    "size beyond all memory": (
        lambda rng, right: right + header(b"x.jpg", 0, field=b"\x80" + b"\x7f" * 11) + bytes(512),
        Reason.ARCHIVE_TRUNCATED,
    ),
    "negative size": (
        lambda rng, right: right + header(b"x.jpg", 0, field=b"\xff" * 12) + bytes(512),
        Reason.ARCHIVE_CORRUPT,
    ),
    "size that is no number": (
        lambda rng, right: right + header(b"x.jpg", 0, field=b"0x000000001\0") + bytes(512),
        Reason.ARCHIVE_CORRUPT,
    ),
    "long name of a gigabyte": (lambda rng, right: right + header(b"x", 1 << 30, b"L"), Reason.ARCHIVE_CORRUPT),
    "pax header of a gigabyte": (lambda rng, right: right + header(b"x", 1 << 30, b"x"), Reason.ARCHIVE_CORRUPT),
    "pax header that lies": (lambda rng, right: right + member(b"x", b"999 path=a\n", b"x"), Reason.ARCHIVE_CORRUPT),
    "pax size that is negative": (
        lambda rng, right: right + member(b"x", b"11 size=-1\n", b"x") + member(b"x.jpg", b"") + END,
        Reason.ARCHIVE_CORRUPT,
    ),
    "ten thousand long names": (lambda rng, right: right + member(b"x", b"a", b"L") * 5000, Reason.ARCHIVE_TRUNCATED),
    "gzip that is cut": (_cut_gzip, Reason.ARCHIVE_TRUNCATED),
    "gzip whose checksum is zero": (
        lambda rng, right: gzip.compress(right, mtime=0)[:-8] + bytes(8),
        Reason.ARCHIVE_CORRUPT,
    ),
    "nothing but xz": (lambda rng, right: b"\xfd7zXZ\0" + rng.randbytes(2000), Reason.ARCHIVE_CORRUPT),
}
