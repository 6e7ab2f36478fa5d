"""Image sets in folders; a caption shares its image's name up to the suffix, or stands in a metadata.jsonl."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from lightgen_core.images.sample import (
    CAPTION_FILE_BYTES,
    CAPTION_SUFFIXES,
    IMAGE_SUFFIXES,
    METADATA,
    BadSample,
    ByteRange,
    Sample,
    SampleFiles,
    checked_member_name,
    key_and_suffix,
    parse_caption_file,
)
from lightgen_core.rejected import Reason, Rejected


@dataclass(frozen=True)
class FolderSet:
    """Samples of a folder and its subfolders by name.

    Links are followed to files in the folder itself and, as in a snapshot of the Hugging Face cache, in a folder
    `blobs` beside it or above it. Any other link could bring a foreign file into the set.
    """

    root: Path
    caption_fields: Sequence[str]
    max_image_bytes: int

    def samples(self) -> Iterator[Sample | BadSample]:
        """Yield samples and bad samples."""
        metadata: dict[str, str | Rejected] = {}
        pending = [self.root]
        while pending:
            files, folders = [], []
            for path in sorted(pending.pop().iterdir(), key=os.fsencode):
                raw = os.fsencode(path.relative_to(self.root))
                try:
                    name = checked_member_name(raw)
                    if path.is_dir() and not path.is_symlink():
                        folders.append(path)
                    elif path.name == METADATA:
                        yield from self._read_metadata(name, metadata)
                    else:
                        self._resolve(name)
                        files.append(name)
                except Rejected as error:
                    yield BadSample(ascii(raw[:200])[2:-1], error.without_frames())
            pending += reversed(folders)
            for key, names in groupby(sorted(files, key=key_and_suffix), key=lambda name: key_and_suffix(name)[0]):
                yield from self._assemble(key, list(names), metadata.pop(key, None))
        for key in metadata:
            yield BadSample(key, Rejected(Reason.NO_IMAGE, f"{METADATA} names a picture that is not there"))

    def _read_metadata(self, name: str, captions: dict[str, str | Rejected]) -> Iterator[BadSample]:
        """Add the captions by the key of the image, and yield the lines that are none."""
        with self._resolve(name).open("rb") as file:
            number = 0
            while line := file.readline(CAPTION_FILE_BYTES):
                number += 1
                try:
                    path = PurePosixPath(name).parent / json.loads(line)["file_name"]
                    key = key_and_suffix(checked_member_name(str(path).encode()))[0]
                except (ValueError, TypeError, KeyError, RecursionError, Rejected):
                    if line.strip():
                        detail = "expected a JSON object with file_name, a path below this folder"
                        yield BadSample(f"{name}, line {number}", Rejected(Reason.CAPTION_JSON, detail))
                    continue
                try:
                    captions[key] = parse_caption_file(line, "json", self.caption_fields)
                except Rejected as error:
                    captions[key] = error.without_frames()

    def _assemble(
        self, key: str, names: Sequence[str], metadata: str | Rejected | None
    ) -> Iterator[Sample | BadSample]:
        sample_files = SampleFiles(key, captions={} if metadata is None else {METADATA: metadata})
        for name in names:
            suffix = key_and_suffix(name)[1]
            if sample_files.is_duplicate(suffix):
                sample_files.reject(name, Reason.DUPLICATE_KEY, "another file has this key and kind")
            elif suffix in CAPTION_SUFFIXES:
                self._add_caption(sample_files, name, suffix)
            elif suffix in IMAGE_SUFFIXES:
                sample_files.images[suffix] = ByteRange(name, 0, (self.root / name).stat().st_size)
            else:
                sample_files.others.append(name)
        yield from sample_files.results()

    def _add_caption(self, sample_files: SampleFiles, name: str, suffix: str) -> None:
        data = _read(self._resolve(name), CAPTION_FILE_BYTES)
        if data is None:
            sample_files.captions[suffix] = Rejected(Reason.CAPTION_TOO_LONG, f"more than {CAPTION_FILE_BYTES} bytes")
        else:
            sample_files.add_caption(data, suffix, self.caption_fields)

    def read(self, ranges: Sequence[ByteRange]) -> Iterator[bytes | Rejected]:
        """Yield images."""
        for byte_range in ranges:
            try:
                data = _read(self._resolve(byte_range.file), self.max_image_bytes)
            except Rejected as error:
                yield error.without_frames()
                continue
            except OSError as error:
                yield Rejected(Reason.SPECIAL_FILE, f"cannot be opened any more: {error.strerror}")
                continue
            too_large = Rejected(Reason.IMAGE_TOO_LARGE, f"more than {self.max_image_bytes} bytes")
            yield too_large if data is None else data

    def _resolve(self, name: str) -> Path:
        """Return the path of a regular file, of an allowed link its target. Raises Rejected."""
        path = self.root / name
        if path.is_symlink():
            path, root = Path(os.path.realpath(path)), Path(os.path.realpath(self.root))
            if not any(path.is_relative_to(each) for each in (root, *(parent / "blobs" for parent in root.parents))):
                raise Rejected(Reason.SPECIAL_FILE, "a link out of the set is not followed: copy the set with cp -rL")
        if not path.is_file():
            raise Rejected(Reason.SPECIAL_FILE, "a link to a folder or to nothing, a device or a pipe is not read")
        return path


def _read(path: Path, limit: int) -> bytes | None:
    """Return a file's bytes, None if over the limit. Raises OSError for links."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else None
