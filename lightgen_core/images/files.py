"""Files of an image set on this machine or on a remote file system, by their names below one root."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol, Self

from lightgen_core.images.ordered_map import ordered_map
from lightgen_core.images.sample import BadSample, checked_member_name
from lightgen_core.images.walk import find_files
from lightgen_core.rejected import Reason, Rejected

_REQUESTS = 16
"""Remote files read at once."""
_SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders that operating systems leave among images."""


class Folder(NamedTuple):
    """The files of one folder, sorted, and what in it cannot be read."""

    names: list[str]
    bad_samples: list[BadSample]


class Files(Protocol):
    """Read-only files; names are relative, with slashes, and in one order on any file system."""

    @property
    def root(self) -> str:
        """Address of the root, for messages and for `datasets`."""

    @property
    def file(self) -> str | None:
        """Name of the only file, where the set is one file; its folder may hold images that it names."""

    @property
    def names(self) -> frozenset[str] | None:
        """Names of a split, where only these are read."""

    def only(self, names: frozenset[str]) -> Self:
        """Return the same files but for those of other names."""

    def folders(self) -> Iterator[Folder]:
        """Yield every folder, a folder before its subfolders."""

    def find(self, *suffixes: str) -> list[str]:
        """Return the names with one of the suffixes, in any case, sorted; hidden ones too."""

    def exists(self, name: str) -> bool:
        """Return whether a name is one of a file, also of another split. Raises Rejected if a link leads out to it."""

    def size(self, name: str) -> int:
        """Return a file's bytes."""

    def open(self, name: str, *, scattered: bool = False) -> BinaryIO:
        """Open a file that was found; seekable. scattered: it is read in few places rather than from end to end."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's bytes, None if over the limit. Raises Rejected if it may or can not be read."""


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder above it begins with a dot, or is an operating system's own."""
    return any(part.startswith(".") or part in _SYSTEM for part in PurePosixPath(name).parts)


def hidden(name: str) -> BadSample:
    """Return the bad sample of a hidden file or folder."""
    detail = "begins with a dot, or is an operating system's own; rename it to have it read"
    return BadSample(name, Rejected(Reason.HIDDEN, detail))


@dataclass(frozen=True)
class LocalFiles:
    """Files of this machine.

    Images and captions may be links to files in the root and, as in a snapshot of the Hugging Face cache, in a folder
    `blobs` beside it or above it. Any other link could bring a foreign file into the set. Archives may lie behind
    any link (`find`).
    """

    path: Path
    file: str | None = None
    """The only file, where the set is one file: then `path` is its folder."""
    names: frozenset[str] | None = None

    @property
    def root(self) -> str:
        """Path of the folder, or of the one file."""
        return str(self.path / self.file if self.file else self.path)

    def only(self, names: frozenset[str]) -> Self:
        """Return the same files but for those of other names."""
        return replace(self, names=names)

    def folders(self) -> Iterator[Folder]:
        """Yield every folder; a link to a folder is named, not entered."""
        pending = [self.path]
        while pending:
            folder, subfolders = Folder([], []), []
            for path in sorted(pending.pop().iterdir(), key=os.fsencode):
                raw = os.fsencode(path.relative_to(self.path))
                try:
                    name = checked_member_name(raw)
                    is_folder = path.is_dir() and not path.is_symlink()
                    if is_hidden(path.name):
                        folder.bad_samples.append(hidden(f"{name}/" if is_folder else name))
                    elif is_folder:
                        subfolders.append(path)
                    elif self.names is None or name in self.names:
                        self._resolve(name)
                        folder.names.append(name)
                except Rejected as error:
                    folder.bad_samples.append(BadSample(ascii(raw[:200])[2:-1], error.without_frames()))
            yield folder
            pending += reversed(subfolders)

    def find(self, *suffixes: str) -> list[str]:
        """Return the names with a suffix, in folders behind links too."""
        return [self.file] if self.file else [name for name in self._found if name.lower().endswith(suffixes)]

    @cached_property
    def _found(self) -> list[str]:
        found = [path.relative_to(self.path).as_posix() for path in find_files(self.path, "")]
        return [name for name in found if self.names is None or name in self.names]

    def exists(self, name: str) -> bool:
        """Return whether a name is one of a file, also of another split. Raises Rejected if a link leads out to it."""
        path = self.path / name
        try:
            if not path.is_file():
                return False
        except OSError:  # a text too long to be a name
            return False
        self._check_inside(os.path.realpath(path))
        return True

    def size(self, name: str) -> int:
        """Return a file's bytes."""
        return (self.path / name).stat().st_size

    def open(self, name: str, *, scattered: bool = False) -> BinaryIO:
        """Open a file that was found."""
        return (self.path / name).open("rb")

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's bytes, None if over the limit; it is opened without following a link."""
        try:
            descriptor = os.open(self._resolve(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise Rejected(Reason.SPECIAL_FILE, f"cannot be opened any more: {error.strerror}") from error
        with open(descriptor, "rb") as file:
            data = file.read(limit + 1)
        return data if len(data) <= limit else None

    @cached_property
    def _allowed(self) -> tuple[Path, ...]:
        """Folders to whose files a link may lead."""
        root = Path(os.path.realpath(self.path))
        return (root, *(parent / "blobs" for parent in root.parents))

    def _check_inside(self, target: str | Path) -> None:
        if not any(Path(target).is_relative_to(each) for each in self._allowed):
            raise Rejected(Reason.SPECIAL_FILE, "a link out of the set is not followed: copy the set with cp -rL")

    def _resolve(self, name: str) -> Path:
        """Return the path of a regular file, of an allowed link its target. Raises Rejected."""
        path = self.path / name
        if path.is_symlink():
            path = Path(os.path.realpath(path))
            self._check_inside(path)
        if not path.is_file():
            raise Rejected(Reason.SPECIAL_FILE, "a link to a folder or to nothing, a device or a pipe is not read")
        return path


def read_files(files: Files, names: Sequence[str], limit: int) -> Iterator[bytes | Rejected]:
    """Yield the bytes of files in order, remote ones several at once."""

    def read(name: str) -> bytes | Rejected:
        try:
            data = files.read(name, limit)
        except Rejected as error:
            return error.without_frames()
        return Rejected(Reason.IMAGE_TOO_LARGE, f"more than {limit} bytes") if data is None else data

    yield from map(read, names) if isinstance(files, LocalFiles) else ordered_map(read, names, _REQUESTS)
