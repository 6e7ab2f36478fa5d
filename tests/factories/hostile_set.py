"""Image sets as an enemy would make them: every damage by name, with the reason that must be found for it."""

import json
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lightgen_core.rejected import Reason
from tests.factories.hostile_images import CAPTIONS, PICTURES, encoded_image
from tests.factories.hostile_tars import ARCHIVES, END, member

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
        return member(f"{key}.jpg".encode(), encoded_image(self.rng)) + member(f"{key}.json".encode(), self.caption(0))

    def _turns(self) -> Iterator[Callable[[str, int], bytes]]:
        while True:
            yield from (lambda tar, n, what=what: self._bad_image(tar, n, what) for what in PICTURES)
            yield from (lambda tar, n, what=what: self._bad_caption(tar, n, what) for what in CAPTIONS)
            yield from (lambda tar, n, what=what: self._bad_name(n, tar, what) for what in NAMES)
            yield from (self._alone_image, self._alone_caption, self._unknown, self._twice)

    def _bad_image(self, tar: str, number: int, what: str) -> bytes:
        make, reason = PICTURES[what]
        self.expected[f"{tar}/{number}"] = reason
        return member(b"%d.jpg" % number, make(self.rng)) + member(b"%d.json" % number, self.caption(0))

    def _bad_caption(self, tar: str, number: int, what: str) -> bytes:
        suffix, make, reason = CAPTIONS[what]
        self.expected[f"{tar}/{number}"] = reason
        return member(b"%d.jpg" % number, encoded_image(self.rng)) + member(
            f"{number}.{suffix}".encode(), make(self.rng)
        )

    def _bad_name(self, number: int, tar: str, what: str) -> bytes:
        template, kind, reason = NAMES[what]
        name = template.replace(b"{}", b"%d" % number)
        self.expected[
            f"{tar}/{ascii(name)[2:-1]}" if reason is not Reason.SPECIAL_FILE else f"{tar}/{name.decode()}"
        ] = reason
        return member(name, b"" if kind in b"123456" else b"data", kind)

    def _alone_image(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/{number}"] = Reason.NO_CAPTION
        return member(b"%d.png" % number, encoded_image(self.rng, "PNG"))

    def _alone_caption(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/{number}"] = Reason.NO_IMAGE
        return member(b"%d.json" % number, self.caption(0))

    def _unknown(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/{number}"] = Reason.UNKNOWN_FILE
        return member(b"%d.sh" % number, b"rm -rf /")

    def _twice(self, tar: str, number: int) -> bytes:
        self.expected[f"{tar}/twice-{number}.jpg"] = Reason.DUPLICATE_KEY
        return self.right(tar, f"twice-{number}") + member(b"twice-%d.jpg" % number, encoded_image(self.rng))

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


def write_folder(hostile: Hostile, root: Path, inputs: int) -> None:
    """A folder of damaged samples, with links and pipes."""
    damages = [*(("image", what) for what in PICTURES), *(("caption", what) for what in CAPTIONS)]
    for number in range(inputs):
        kind, what = damages[number % len(damages)]
        folder = root / f"part-{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        make, reason = PICTURES[what] if kind == "image" else CAPTIONS[what][1:]
        suffix = "json" if kind == "image" else CAPTIONS[what][0]
        data, caption = (
            (make(hostile.rng), hostile.caption(0))
            if kind == "image"
            else (encoded_image(hostile.rng), make(hostile.rng))
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
    (root / "right.png").write_bytes(encoded_image(hostile.rng, "PNG"))
    (root / "right.txt").write_text("a photo of thing 0")
    hostile.good.add("right")


def write_parquet(hostile: Hostile, root: Path, inputs: int) -> None:
    """Parquet files with damaged images and captions, and a file that is cut."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": encoded_image(hostile.rng), "path": None}, "caption": "a photo of thing 0"}]
    hostile.good.add("a.parquet:0")
    for what, value, reason in (
        ("null", None, Reason.NO_CAPTION),
        ("empty", " ", Reason.CAPTION_EMPTY),
        ("long", "cat " * 4000, Reason.CAPTION_TOO_LONG),
    ):
        hostile.expected[f"a.parquet:{len(rows)}"] = reason
        rows.append({"image": {"bytes": encoded_image(hostile.rng), "path": what}, "caption": value})
    hostile.expected[f"a.parquet:{len(rows)}"] = Reason.NO_IMAGE
    rows.append({"image": {"bytes": None, "path": "/etc/passwd"}, "caption": "a photo of thing 0"})
    for number in range(inputs):
        make, reason = list(PICTURES.values())[number % len(PICTURES)]
        hostile.expected[f"a.parquet:{len(rows)}"] = reason
        rows.append({"image": {"bytes": make(hostile.rng), "path": None}, "caption": "a photo of thing 0"})
    pq.write_table(pa.Table.from_pylist(rows), root / "a.parquet", row_group_size=10)
    (root / "b.parquet").write_bytes((root / "a.parquet").read_bytes()[:-100])
    (root / "c.parquet").write_bytes(b"PAR1" + hostile.rng.randbytes(500) + b"PAR1")
    hostile.expected |= dict.fromkeys(
        ("b.parquet: row 0 and the rest", "c.parquet: row 0 and the rest"), Reason.ARCHIVE_CORRUPT
    )
