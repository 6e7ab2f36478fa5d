"""Files in a folder of this machine, or of a disk that several machines mount."""

import contextlib
import errno
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from storage.base import Content, Found, StoreError
from storage.lock import file_lock

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_FULL = {errno.ENOSPC, errno.EDQUOT}

_TORSO = re.compile(r"^\.[0-9a-f]{32}\.partial$")
"""Name of a file that is being written, or whose writer was killed."""


class LocalFiles:
    """Files below a folder; see `storage.base.Files`. The folder is made when the first file is written.

    Raises:
        StoreError: it cannot be made, for there is a file in its way.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        there = next(place for place in (root, *root.parents) if place.exists())
        if not there.is_dir():
            raise StoreError(f"store {root}: {there} is a file. Name a folder with --store or LIGHTGEN_STORE.")

    def read(self, path: str) -> bytes:
        """Return a small file's bytes."""
        return (self.root / path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        return (self.root / path).open("rb")

    def download(self, path: str, target: Path) -> None:
        """Copy a file."""
        shutil.copyfile(self.root / path, target)

    def write(self, path: str, content: Content) -> None:
        """Write a whole file: under another name, to the disk, and then renamed."""
        with self._torso(path, content) as torso:
            torso.replace(self.root / path)

    def create(self, path: str, content: Content) -> bool:
        """Write a whole file unless one is there: a second name is given to a file only if it is free.

        Where a file system has no second names (exFAT, some network drives), a lock stands in for them.
        """
        with self._torso(path, content) as torso:
            try:
                os.link(torso, self.root / path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with file_lock(self.root / ".locks/create.lock"):
                    if self.exists(path):
                        return False
                    torso.replace(self.root / path)
            return True

    @contextlib.contextmanager
    def _torso(self, path: str, content: Content) -> Iterator[Path]:
        whole = self.root / path
        torso = whole.with_name(f".{uuid.uuid4().hex}.partial")
        source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        try:
            with source, self._told():
                whole.parent.mkdir(parents=True, exist_ok=True)
                _write(torso, source)
            yield torso
        finally:
            with contextlib.suppress(OSError):  # there is no such place
                torso.unlink()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                advice = "Make room (`lightgen store gc` tells what can go); the same command then goes on from there"
            else:
                advice = "Give a folder that can be made and written to, by --store or LIGHTGEN_STORE"
            raise StoreError(f"store {self.root} cannot be written to: {error}.\n{advice}.") from error

    def exists(self, path: str) -> bool:
        """Tell whether there is a file of this path."""
        return (self.root / path).is_file()

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it."""
        there = self.root / path
        if there.is_symlink() or not there.is_dir():
            there.unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):  # another run removes it too
            shutil.rmtree(there)

    def keep_only(self, folder: str, names: set[str]) -> None:
        """Remove every file below a folder whose path is not named, and the folders that are empty then."""
        for path in self._walk(folder):
            if path.relative_to(self.root / folder).as_posix() not in names:
                path.unlink(missing_ok=True)
        for parent, _, _ in os.walk(self.root / folder, topdown=False):
            with contextlib.suppress(OSError):  # not empty
                Path(parent).rmdir()

    def scan(self, folder: str) -> dict[str, Found]:
        """Return every whole file below a folder; its version is its time of change and its inode."""
        found = {}
        for path in self._walk(folder):
            with contextlib.suppress(FileNotFoundError):  # removed, or renamed to its whole name, since the listing
                if not _TORSO.match(path.name):
                    seen = path.stat()
                    name = path.relative_to(self.root / folder).as_posix()
                    found[name] = Found(seen.st_size, f"{seen.st_size}-{seen.st_mtime_ns}-{seen.st_ino}")
        return found

    def _walk(self, folder: str) -> Iterator[Path]:
        for parent, _, names in os.walk(self.root / folder, followlinks=True):
            yield from (Path(parent, name) for name in names)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder."""
        try:
            return [entry.name for entry in os.scandir(self.root / folder) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []


def _write(path: Path, source: BinaryIO) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 24)
        file.flush()
        os.fsync(file.fileno())
