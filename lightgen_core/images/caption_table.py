"""A table of captions that lies elsewhere than the images that it names."""

import os
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from lightgen_core.images.files import Files, is_hidden
from lightgen_core.images.location import LocationError, open_files
from lightgen_core.images.metadata import (
    FILE_NAMES,
    TABLE_SUFFIXES,
    Metadata,
    caption_of,
    image_key,
    metadata_rows,
    named_image,
)
from lightgen_core.images.reference import plain_path, resolve_reference
from lightgen_core.images.sample import IMAGE_SUFFIXES, BadSample, ImageSetError, key_and_suffix, usual_names
from lightgen_core.rejected import Reason, Rejected

_MAX_PARTS = 16
"""Parts of a path in a table that are compared, from its end."""
_FIRST_ROWS = 100
"""Rows of which one must have a column that names images; a long list of captions alone is then not read."""


class ImageIndex:
    """Keys of a folder's images by the ends of their paths, in any case."""

    def __init__(self, images: Files) -> None:
        names = images.find(*(f".{suffix}" for suffix in IMAGE_SUFFIXES))
        self._keys = dict.fromkeys(key_and_suffix(name)[0] for name in names if not is_hidden(name))
        self._ends: dict[str, str | None] = {}
        """None: several images have this end."""
        whole: dict[str, str | None] = {}
        for key in self._keys:
            end = _fold(key)
            whole[end] = None if end in whole else key
            while "/" in end:
                end = end.partition("/")[2]
                self._ends[end] = None if end in self._ends else key
        self._ends |= whole

    def find(self, text: str) -> tuple[str, str]:
        """Return the key of the image that a path means, and the path: the key itself if it is written out.

        Folders in front of the path may be missing, or be too many; at last its name alone counts.

        Raises:
            Rejected: an address, no such image, or several.
        """
        plain = plain_path(text)
        for path in dict.fromkeys((plain, unquote(plain))):
            written = image_key(PurePosixPath(posixpath.normpath(path)))
            if written in self._keys:
                return written, written
            parts = _fold(written).split("/")[-_MAX_PARTS:]
            ends = ("/".join(parts[start:]) for start in range(len(parts)))
            if (end := next((end for end in ends if end in self._ends), None)) is not None:
                if (key := self._ends[end]) is None:
                    raise Rejected(Reason.NO_IMAGE, f"{text[:200]!a} may be several images: name it with its folders")
                return key, key if end == _fold(key) == _fold(written) else written
        raise Rejected(Reason.NO_IMAGE, f"there is no {text[:200]!a} in the set")


def _fold(path: str) -> str:
    """Return a path in small letters, and as one of the ways in which systems write an accent."""
    return unicodedata.normalize("NFC", path).casefold()


class _Row(NamedTuple):
    """A row that means an image: its key, the path as `ImageIndex.find` returns it, and its caption."""

    location: str
    key: str
    path: str
    caption: str | Rejected


@dataclass(frozen=True)
class CaptionTable:
    """A table of captions that lies elsewhere than its images."""

    files: Files
    name: str

    @classmethod
    def open(cls, location: str) -> "CaptionTable":
        """Open a table. Raises ImageSetError."""
        try:
            files = open_files(location)
        except LocationError as error:
            raise ImageSetError(f"captions is {location!r}: {error}") from error
        if files.file is None or not files.file.lower().endswith(TABLE_SUFFIXES):
            raise ImageSetError(
                f"captions is {location!r}: expected one table that names images, of {', '.join(TABLE_SUFFIXES)}"
            )
        return cls(files, files.file)

    def name_in(self, images: Files) -> str | None:
        """Return the name of the table among the files of a folder; None if it lies elsewhere."""
        roots = (self.files.root, images.root)
        table, folder = (root if "://" in root else os.path.realpath(root) for root in roots)
        return table.removeprefix(f"{folder}/") if table.startswith(f"{folder}/") else None

    def read(self, images: Files, fields: Sequence[str]) -> Metadata:
        """Return the captions of a folder's images, and the rows that are none.

        Where rows of several paths may mean one image, only those count that write its path out.

        Raises:
            ImageSetError: no row names an image of the folder.
        """
        captions, rows, index, has_names = Metadata(), list[_Row](), ImageIndex(images), False
        for location, row in metadata_rows(self.files, self.name):
            has_names |= isinstance(row, dict) and bool(usual_names(row, FILE_NAMES))
            try:
                if isinstance(row, Rejected):
                    raise row
                text = named_image(row)
                if not _of_another_split(images, text):
                    rows.append(_Row(location, *index.find(text), caption_of(row, fields)))
            except Rejected as error:
                captions.rejected.append(BadSample(location, error.without_frames()))
                if not has_names and len(captions.rejected) == _FIRST_ROWS:
                    break
        if not rows:
            bad = next((f"; {bad.key}: {bad.error}" for bad in captions.rejected), ": it is empty")
            raise ImageSetError(f"{self.files.root} names no image of {images.root}{bad}")
        paths: dict[str, str] = {}
        several = {key for _, key, path, _ in rows if paths.setdefault(key, path) != path}
        for location, key, path, caption in rows:
            if key in several and path != key:
                detail = f"{path[:200]!a} may be {key[:200]!a}, as another path of the table may"
                captions.rejected.append(BadSample(location, Rejected(Reason.NO_IMAGE, detail)))
            else:
                captions.add(key, location, caption)
        return captions


def _of_another_split(images: Files, text: str) -> bool:
    """Return whether a path is that of an image of a split that is not read."""
    try:
        return images.names is not None and resolve_reference(images, "", text) not in images.names
    except Rejected:
        return False
