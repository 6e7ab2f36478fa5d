"""Image sets in folders; a caption shares its image's name up to the suffix."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    BadSample,
    ByteRange,
    Sample,
    SampleFiles,
    checked_member_name,
    key_and_suffix,
)
from lightgen_core.rejected import Reason, Rejected


@dataclass(frozen=True)
class FolderSet:
    """Samples of a folder and its subfolders by name; links are not followed."""

    root: Path
    caption_fields: Sequence[str]
    max_image_bytes: int

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples."""
        pending = [self.root]
        while pending:
            files, folders = [], []
            for path in sorted(pending.pop().iterdir(), key=os.fsencode):
                raw = os.fsencode(path.relative_to(self.root))
                try:
                    name, mode = checked_member_name(raw), path.lstat().st_mode
                    if stat.S_ISDIR(mode):
                        folders.append(path)
                    elif stat.S_ISREG(mode):
                        files.append(name)
                    else:
                        raise Rejected(Reason.SPECIAL_FILE, "links are not followed, devices and pipes not read")
                except Rejected as error:
                    yield BadSample(ascii(raw[:200])[2:-1], error.without_frames())
            pending += reversed(folders)
            for key, names in groupby(sorted(files, key=key_and_suffix), key=lambda name: key_and_suffix(name)[0]):
                yield from self._assemble(key, list(names))

    def _assemble(self, key: str, names: Sequence[str]) -> Iterator[Sample | BadSample]:
        sample_files = SampleFiles(key)
        for name in names:
            suffix = key_and_suffix(name)[1]
            if suffix in sample_files.captions or (suffix in IMAGE_SUFFIXES and sample_files.image is not None):
                sample_files.reject(name, Reason.DUPLICATE_KEY, "another file has this key and kind")
            elif suffix in CAPTION_SUFFIXES:
                self._add_caption(sample_files, name, suffix)
            elif suffix in IMAGE_SUFFIXES:
                sample_files.image = ByteRange(name, 0, (self.root / name).stat().st_size)
            else:
                sample_files.others.append(name)
        yield from sample_files.results()

    def _add_caption(self, sample_files: SampleFiles, name: str, suffix: str) -> None:
        data = _read(self.root / name, CAPTION_FILE_BYTES)
        if data is None:
            sample_files.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, f"more than {CAPTION_FILE_BYTES} bytes")
        else:
            sample_files.add_caption(data, suffix, self.caption_fields)

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images."""
        for byte_range in ranges:
            try:
                data = _read(self.root / byte_range.file, self.max_image_bytes)
            except OSError as error:
                yield Rejected(Reason.SPECIAL_FILE, f"cannot be opened any more: {error.strerror}")
                continue
            too_large = Rejected(Reason.IMAGE_TOO_LARGE, f"more than {self.max_image_bytes} bytes")
            yield too_large if data is None else data


def _read(path: Path, limit: int) -> bytes | None:
    """Return a file's bytes, None if over the limit. Raises OSError for links."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else None
