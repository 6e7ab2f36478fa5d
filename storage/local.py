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

from storage.lock import file_lock
from storage.store import Content, FileInfo, Store, StoreError, check_path

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}

_TEMP_FILE = re.compile(r"^\.[0-9a-f]{32}\.partial$")
"""Name of a file that is being written, or whose writer was killed."""


class LocalStore(Store):
    """Files below a folder, made with the first file. Raises StoreError if a file is in its way."""

    supports_locking = True

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)
        parent = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not parent.is_dir():
            raise StoreError(f"store {self.root}: {parent} is a file. Name a folder with --store or LIGHTGEN_STORE.")

    def _path(self, path: str) -> Path:
        return self.root / check_path(path)

    def local_path(self, path: str) -> Path:
        return self._path(path)

    def read(self, path: str) -> bytes:
        return self._path(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        return self._path(path).open("rb")

    def download(self, path: str, target: Path) -> None:
        shutil.copyfile(self._path(path), target)

    def write(self, path: str, content: Content) -> None:
        """Write a temporary file, sync it to disk and rename it."""
        with self._temp_file(path, content) as temp:
            temp.replace(self._path(path))

    def create(self, path: str, content: Content) -> bool:
        """Write a temporary file and link it: a link is made only if its name is free.

        On a file system without hard links (exFAT, some network drives) a lock stands in for them.
        """
        with self._temp_file(path, content) as temp:
            try:
                os.link(temp, self._path(path))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with file_lock(self.root / ".locks/create.lock"):
                    if self.exists(path):
                        return False
                    temp.replace(self._path(path))
            return True

    def copy(self, source: str, target: str) -> None:
        """Link the file a second time, so that it takes no room; no file is ever changed where it lies.

        On a file system without hard links it is copied.
        """
        temp = self._temp_path(target)
        with self._translate_errors():
            temp.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self._path(source), temp)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self.write(target, self._path(source))
        else:
            temp.replace(self._path(target))
            temp.unlink(missing_ok=True)  # a rename onto another link of the same file does nothing

    def _temp_path(self, path: str) -> Path:
        return self._path(path).with_name(f".{uuid.uuid4().hex}.partial")

    @contextlib.contextmanager
    def _temp_file(self, path: str, content: Content) -> Iterator[Path]:
        temp = self._temp_path(path)
        source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        try:
            with source, self._translate_errors():
                temp.parent.mkdir(parents=True, exist_ok=True)
                with temp.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 24)
                    file.flush()
                    os.fsync(file.fileno())
            yield temp
        finally:
            with contextlib.suppress(OSError):  # it was never made
                temp.unlink()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "Give a folder that can be made and written to, by --store or LIGHTGEN_STORE"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                advice = "Make room (`lightgen store gc` lists what can go); the same command then goes on from there"
            raise StoreError(f"store {self.root} cannot be written to: {error}.\n{advice}.") from error

    def exists(self, path: str) -> bool:
        return self._path(path).is_file()

    def remove(self, path: str) -> None:
        target = self._path(path)
        with contextlib.suppress(FileNotFoundError):  # another run removes it too
            if target.is_symlink() or not target.is_dir():
                target.unlink()
            else:
                shutil.rmtree(target)

    def delete_except(self, folder: str, names: set[str]) -> None:
        """Remove every file that is not named, and then empty folders."""
        for path in self._walk(folder):
            if path.relative_to(self._path(folder)).as_posix() not in names:
                path.unlink(missing_ok=True)
        for parent, _, _ in os.walk(self._path(folder), topdown=False):
            with contextlib.suppress(OSError):  # not empty
                Path(parent).rmdir()

    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below a folder; an etag is size, modification time and inode."""
        files = {}
        for path in self._walk(folder):
            with contextlib.suppress(FileNotFoundError):  # removed, or renamed, since the listing
                if not _TEMP_FILE.match(path.name):
                    stat = path.stat()
                    name = path.relative_to(self._path(folder)).as_posix()
                    files[name] = FileInfo(stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}")
        return dict(sorted(files.items()))

    def _walk(self, folder: str) -> Iterator[Path]:
        for parent, _, names in os.walk(self._path(folder), followlinks=True):
            yield from (Path(parent, name) for name in names)

    def folders(self, folder: str) -> list[str]:
        try:
            entries = os.scandir(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
