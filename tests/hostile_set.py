"""Image sets as an enemy would make them: every damage by name, with the reason that must be found for it."""

import gzip
import io
import json
import os
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lightgen_core.rejected import Reason

PIXELS, BYTES = 250_000, 100_000
"""Limits of pixels and bytes that the damages below exceed."""


def picture(rng: random.Random, format: str = "JPEG", size: tuple[int, int] = (48, 48), mode: str = "RGB") -> bytes:
    """A picture with some structure and some noise, whole."""
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(sink, format=format)
    return sink.getvalue()


def png(width: int, height: int, data: bytes, depth: int = 8, extra: bytes = b"") -> bytes:
    """A PNG put together by hand, with right checksums: its header may claim anything."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    body = [_chunk(name, content) for name, content in chunks]
    return b"\x89PNG\r\n\x1a\n" + body[0] + extra + b"".join(body[1:])


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(16, len(data) * 9 // 10)]


def _flipped(rng: random.Random, data: bytes) -> bytes:
    """A PNG with some bits of its compressed pixels changed."""
    place = rng.randrange(data.index(b"IDAT") + 8, len(data) - 20)
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


PICTURES: dict[str, tuple[Callable[[random.Random], bytes], Reason]] = {
    "cut jpeg": (lambda rng: _cut(rng, picture(rng)), Reason.PICTURE_CUT),
    "cut png": (lambda rng: _cut(rng, picture(rng, "PNG")), Reason.PICTURE_CUT),
    "cut webp": (lambda rng: _cut(rng, picture(rng, "WEBP")), Reason.PICTURE_CUT),
    "png with flipped bits": (lambda rng: _flipped(rng, picture(rng, "PNG")), Reason.PICTURE_DAMAGED),
    "png with a bomb of text": (
        lambda rng: png(4, 4, b"\0\0\0\0\0" * 4, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * (1 << 23), 9))),
        Reason.PICTURE_DAMAGED,
    ),
    "png that claims to be huge": (lambda rng: png(rng.randrange(501, 1 << 31), 500, b""), Reason.TOO_MANY_PIXELS),
    "png that is huge": (lambda rng: png(2000, 2000, bytes(2001 * 2000)), Reason.TOO_MANY_PIXELS),
    "png beyond Pillow's own limit": (lambda rng: png(60_000, 60_000, b""), Reason.TOO_MANY_PIXELS),
    "jpeg that is huge": (lambda rng: picture(rng, "JPEG", (501, 500)), Reason.PICTURE_TOO_LARGE),
    "16-bit png": (lambda rng: png(8, 8, bytes(17 * 8), depth=16), Reason.NOT_8_BIT),
    "random bytes": (lambda rng: rng.randbytes(rng.randrange(1, 2000)), Reason.NOT_A_PICTURE),
    "no bytes": (lambda rng: b"", Reason.NOT_A_PICTURE),
    "a web page": (lambda rng: b"<html>404 Not Found</html>", Reason.NOT_A_PICTURE),
    "a drawing in SVG": (lambda rng: b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.NOT_A_PICTURE),
    "a GIF": (lambda rng: picture(rng, "GIF"), Reason.NOT_A_PICTURE),
    "a program": (lambda rng: b"\x7fELF" + rng.randbytes(100), Reason.NOT_A_PICTURE),
    "too many bytes": (lambda rng: picture(rng, "JPEG") + bytes(BYTES), Reason.PICTURE_TOO_LARGE),
}

CAPTIONS: dict[str, tuple[str, Callable[[random.Random], bytes], Reason]] = {
    "text that is not UTF-8": ("txt", lambda rng: b"caf\xe9 " + rng.randbytes(8) + b"\xff", Reason.CAPTION_ENCODING),
    "UTF-16": ("txt", lambda rng: "a cat".encode("utf-16"), Reason.CAPTION_ENCODING),
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

NAMES: dict[str, tuple[bytes, bytes, Reason]] = {
    "absolute": (b"/etc/cron.d/{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "parent": (b"../../{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "parent inside": (b"a/../../{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "drive": (b"C:{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "backslash": (b"..\\..\\{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "newline": (b"a\n{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "escape": (b"\x1b[2J{}.jpg", tarfile.REGTYPE, Reason.UNSAFE_PATH),
    "not UTF-8": (b"\xff\xfe{}.jpg", tarfile.REGTYPE, Reason.NAME_ENCODING),
    "symbolic link": (b"link-{}.jpg", tarfile.SYMTYPE, Reason.SPECIAL_FILE),
    "hard link": (b"hard-{}.jpg", tarfile.LNKTYPE, Reason.SPECIAL_FILE),
    "character device": (b"char-{}.jpg", tarfile.CHRTYPE, Reason.SPECIAL_FILE),
    "block device": (b"block-{}.jpg", tarfile.BLKTYPE, Reason.SPECIAL_FILE),
    "pipe": (b"pipe-{}.jpg", tarfile.FIFOTYPE, Reason.SPECIAL_FILE),
    "sparse": (b"sparse-{}.jpg", tarfile.GNUTYPE_SPARSE, Reason.SPECIAL_FILE),
}


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


@dataclass
class Hostile:
    """A set in the making: what was written, and what must be said of it."""

    rng: random.Random
    expected: dict[str, Reason] = field(default_factory=dict)
    good: set[str] = field(default_factory=set)

    def caption(self, number: int) -> bytes:
        """The right caption of a sample."""
        return json.dumps({"prompt": f"a photo of thing {number}"}).encode()

    def tar(self, name: str, inputs: int) -> bytes:
        """A whole tar of damaged samples, each damage in turn, with a right sample between them now and then."""
        blocks = []
        turns = self._turns()
        for number in range(inputs):
            blocks.append(next(turns)(name, number))
            if number % 10 == 0:
                blocks.append(self.right(name, f"good-{number}"))
        return b"".join(blocks) + END

    def right(self, tar: str, key: str) -> bytes:
        self.good.add(f"{tar}/{key}")
        return member(f"{key}.jpg".encode(), picture(self.rng)) + member(f"{key}.json".encode(), self.caption(0))

    def _turns(self) -> Iterator[Callable[[str, int], bytes]]:
        while True:
            yield from (lambda tar, n, what=what: self._bad_picture(tar, n, what) for what in PICTURES)
            yield from (lambda tar, n, what=what: self._bad_caption(tar, n, what) for what in CAPTIONS)
            yield from (lambda tar, n, what=what: self._bad_name(n, tar, what) for what in NAMES)
            yield from (self._alone_picture, self._alone_caption, self._unknown, self._twice)

    def _bad_picture(self, tar: str, number: int, what: str) -> bytes:
        make, reason = PICTURES[what]
        self.expected[f"{tar}/{number}"] = reason
        return member(b"%d.jpg" % number, make(self.rng)) + member(b"%d.json" % number, self.caption(0))

    def _bad_caption(self, tar: str, number: int, what: str) -> bytes:
        suffix, make, reason = CAPTIONS[what]
        self.expected[f"{tar}/{number}"] = reason
        return member(b"%d.jpg" % number, picture(self.rng)) + member(f"{number}.{suffix}".encode(), make(self.rng))

    def _bad_name(self, number: int, tar: str, what: str) -> bytes:
        template, kind, reason = NAMES[what]
        name = template.replace(b"{}", b"%d" % number)
        self.expected[
            f"{tar}/{ascii(name)[2:-1]}" if reason is not Reason.SPECIAL_FILE else f"{tar}/{name.decode()}"
        ] = reason
        return member(name, b"" if kind in b"123456" else b"data", kind)

    def _alone_picture(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/{number}"] = Reason.NO_CAPTION
        return member(b"%d.png" % number, picture(self.rng, "PNG"))

    def _alone_caption(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/{number}"] = Reason.NO_PICTURE
        return member(b"%d.json" % number, self.caption(0))

    def _unknown(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/{number}"] = Reason.UNKNOWN_FILE
        return member(b"%d.sh" % number, b"rm -rf /")

    def _twice(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/twice-{number}.jpg"] = Reason.DUPLICATE_KEY
        return self.right(tar, f"twice-{number}") + member(b"twice-%d.jpg" % number, picture(self.rng))

    def broken_tars(self, folder: Path, each: int) -> None:
        """Archives that end too early, in every way; each has one right sample before the damage, or none."""
        for what, (make, reason) in ARCHIVES.items():
            for number in range(each):
                name = f"{what}-{number}.tar"
                right = self.right(name, "first")
                (folder / name).write_bytes(make(self.rng, right))
                self.expected[f"{name}: the rest"] = reason
                if what.startswith("nothing"):
                    self.good.remove(f"{name}/first")


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
        Reason.ARCHIVE_CUT,
    ),
    "cut in a header": (lambda rng, right: right + header(b"x.jpg", 9)[: rng.randrange(1, 511)], Reason.ARCHIVE_CUT),
    "cut between members": (lambda rng, right: right, Reason.ARCHIVE_CUT),
    "cut before the partner": (lambda rng, right: right + member(b"x.jpg", picture(rng)), Reason.ARCHIVE_CUT),
    "nothing at all": (lambda rng, right: b"", Reason.ARCHIVE_CUT),
    "nothing but noise": (lambda rng, right: b"\1" + rng.randbytes(5000), Reason.ARCHIVE_DAMAGED),
    "noise after a member": (lambda rng, right: right + b"\1" + rng.randbytes(5000), Reason.ARCHIVE_DAMAGED),
    "huge size": (lambda rng, right: right + header(b"x.jpg", 1 << 32) + bytes(512), Reason.ARCHIVE_CUT),
    "size beyond all memory": (
        lambda rng, right: right + header(b"x.jpg", 0, field=b"\x80" + b"\x7f" * 11) + bytes(512),
        Reason.ARCHIVE_CUT,
    ),
    "negative size": (
        lambda rng, right: right + header(b"x.jpg", 0, field=b"\xff" * 12) + bytes(512),
        Reason.ARCHIVE_DAMAGED,
    ),
    "size that is no number": (
        lambda rng, right: right + header(b"x.jpg", 0, field=b"0x000000001\0") + bytes(512),
        Reason.ARCHIVE_DAMAGED,
    ),
    "long name of a gigabyte": (lambda rng, right: right + header(b"x", 1 << 30, b"L"), Reason.ARCHIVE_DAMAGED),
    "pax header of a gigabyte": (lambda rng, right: right + header(b"x", 1 << 30, b"x"), Reason.ARCHIVE_DAMAGED),
    "pax header that lies": (lambda rng, right: right + member(b"x", b"999 path=a\n", b"x"), Reason.ARCHIVE_DAMAGED),
    "pax size that is negative": (
        lambda rng, right: right + member(b"x", b"11 size=-1\n", b"x") + member(b"x.jpg", b"") + END,
        Reason.ARCHIVE_DAMAGED,
    ),
    "ten thousand long names": (lambda rng, right: right + member(b"x", b"a", b"L") * 5000, Reason.ARCHIVE_CUT),
    "gzip that is cut": (_cut_gzip, Reason.ARCHIVE_CUT),
    "gzip whose checksum is zero": (
        lambda rng, right: gzip.compress(right, mtime=0)[:-8] + bytes(8),
        Reason.ARCHIVE_DAMAGED,
    ),
    "nothing but xz": (lambda rng, right: b"\xfd7zXZ\0" + rng.randbytes(2000), Reason.ARCHIVE_DAMAGED),
}


def write_folder(hostile: Hostile, root: Path, inputs: int) -> None:
    """A folder of damaged samples, with links and pipes."""
    damages = [*(("picture", what) for what in PICTURES), *(("caption", what) for what in CAPTIONS)]
    for number in range(inputs):
        kind, what = damages[number % len(damages)]
        folder = root / f"part-{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        make, reason = PICTURES[what] if kind == "picture" else CAPTIONS[what][1:]
        suffix = "json" if kind == "picture" else CAPTIONS[what][0]
        data, caption = (
            (make(hostile.rng), hostile.caption(0)) if kind == "picture" else (picture(hostile.rng), make(hostile.rng))
        )
        (folder / f"{number}.jpg").write_bytes(data)
        (folder / f"{number}.{suffix}").write_bytes(caption)
        hostile.expected[f"part-{number % 3}/{number}"] = reason
    (root / "link.jpg").symlink_to("/etc/passwd")
    (root / "folder").symlink_to("/")
    os.mkfifo(root / "pipe.jpg")
    (root / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    hostile.expected |= dict.fromkeys(("link.jpg", "folder", "pipe.jpg"), Reason.SPECIAL_FILE)
    hostile.expected["\\xff.jpg"] = Reason.NAME_ENCODING
    (root / "right.png").write_bytes(picture(hostile.rng, "PNG"))
    (root / "right.txt").write_text("a photo of thing 0")
    hostile.good.add("right")


def write_parquet(hostile: Hostile, root: Path, inputs: int) -> None:
    """Parquet files with damaged pictures and captions, and a file that is cut."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": picture(hostile.rng), "path": None}, "caption": "a photo of thing 0"}]
    hostile.good.add("a.parquet:0")
    for what, value, reason in (
        ("null", None, Reason.NO_CAPTION),
        ("empty", " ", Reason.CAPTION_EMPTY),
        ("long", "cat " * 4000, Reason.CAPTION_TOO_LONG),
    ):
        hostile.expected[f"a.parquet:{len(rows)}"] = reason
        rows.append({"image": {"bytes": picture(hostile.rng), "path": what}, "caption": value})
    hostile.expected[f"a.parquet:{len(rows)}"] = Reason.NO_PICTURE
    rows.append({"image": {"bytes": None, "path": "/etc/passwd"}, "caption": "a photo of thing 0"})
    for number in range(inputs):
        make, reason = list(PICTURES.values())[number % len(PICTURES)]
        hostile.expected[f"a.parquet:{len(rows)}"] = reason
        rows.append({"image": {"bytes": make(hostile.rng), "path": None}, "caption": "a photo of thing 0"})
    pq.write_table(pa.Table.from_pylist(rows), root / "a.parquet", row_group_size=10)
    (root / "b.parquet").write_bytes((root / "a.parquet").read_bytes()[:-100])
    (root / "c.parquet").write_bytes(b"PAR1" + hostile.rng.randbytes(500) + b"PAR1")
    hostile.expected |= dict.fromkeys(
        ("b.parquet: row 0 and the rest", "c.parquet: row 0 and the rest"), Reason.ARCHIVE_DAMAGED
    )
