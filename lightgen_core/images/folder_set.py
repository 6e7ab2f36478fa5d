"""A folder of pictures and of captions that share their name up to the suffix."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTIONS,
    PICTURES,
    Fault,
    Parts,
    Place,
    Sample,
    key_and_suffix,
    safe_name,
)
from lightgen_core.rejected import Reason, Rejected


@dataclass(frozen=True)
class FolderSet:
    """The samples of a folder and of the folders in it, by name. Links are not followed."""

    root: Path
    caption_fields: Sequence[str]
    picture_bytes: int

    def samples(self) -> Iterator[Sample | Fault]:
        """Yield samples and faults."""
        pending = [self.root]
        while pending:
            good, folders = [], []
            for path in sorted(pending.pop().iterdir(), key=os.fsencode):
                raw = os.fsencode(path.relative_to(self.root))
                try:
                    name, mode = safe_name(raw), path.lstat().st_mode
                    if stat.S_ISDIR(mode):
                        folders.append(path)
                    elif stat.S_ISREG(mode):
                        good.append(name)
                    else:
                        raise Rejected(Reason.SPECIAL_FILE, "links are not followed, devices and pipes not read")
                except Rejected as why:
                    yield Fault(ascii(raw[:200])[2:-1], why.kept())
            pending += reversed(folders)
            for key, files in groupby(sorted(good, key=key_and_suffix), key=lambda name: key_and_suffix(name)[0]):
                yield from self._result(key, list(files))

    def _result(self, key: str, names: Sequence[str]) -> Iterator[Sample | Fault]:
        parts = Parts(key)
        for name in names:
            suffix = key_and_suffix(name)[1]
            if suffix in parts.captions or (suffix in PICTURES and parts.picture is not None):
                parts.reject(name, Reason.DUPLICATE_KEY, "another file has this key and kind")
            elif suffix in CAPTIONS:
                self._add_caption(parts, name, suffix)
            elif suffix in PICTURES:
                parts.picture = Place(name, 0, (self.root / name).stat().st_size)
            else:
                parts.others.append(name)
        yield from parts.result()

    def _add_caption(self, parts: Parts, name: str, suffix: str) -> None:
        data = _read(self.root / name, CAPTION_FILE_BYTES)
        if data is None:
            parts.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, f"more than {CAPTION_FILE_BYTES} bytes")
        else:
            parts.add_caption(data, suffix, self.caption_fields)

    def read(self, places: Sequence[Place]) -> Iterator[bytes | Rejected]:
        """Yield pictures."""
        for place in places:
            try:
                data = _read(self.root / place.file, self.picture_bytes)
            except OSError as error:
                yield Rejected(Reason.SPECIAL_FILE, f"cannot be opened any more: {error.strerror}")
                continue
            too_large = Rejected(Reason.PICTURE_TOO_LARGE, f"more than {self.picture_bytes} bytes")
            yield too_large if data is None else data


def _read(path: Path, most: int) -> bytes | None:
    """Return a file's bytes, or None where it holds more. A link put in its place since is an OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        data = file.read(most + 1)
    return data if len(data) <= most else None
