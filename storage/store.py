"""A store: files under one address, written whole."""

import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from storage.base import Content, Files, Found, StoreError
from storage.local import LocalFiles

__all__ = ["Store", "StoreError"]


class Store:
    """Files under one URI: a local path, `s3://bucket/prefix`, `memory://name` or another of `storage.remote.PACKAGES`.

    What it promises is said, and tested, in one place: `storage.base.Files`.

    Raises:
        StoreError: the URI does not open; the message says what is missing.
    """

    def __init__(self, uri: str) -> None:
        self._files: Files
        if "://" in uri and not uri.startswith("file://"):
            from storage.remote import RemoteFiles  # what it needs is not loaded for a folder

            self.uri = uri if uri.endswith("://") else uri.rstrip("/")
            self._files, self._root = RemoteFiles(self.uri), None
        else:
            self._root = Path(uri.removeprefix("file://")).expanduser().absolute()
            self.uri = str(self._root)
            self._files = LocalFiles(self._root)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def locks(self) -> bool:
        """Whether a lock on a file in the store holds against every other process that uses it.

        Where it does, one maker of an artifact holds it alone (`scratch.lock`) and may write over what is there. That
        is so for a folder of one machine; machines that share one need a file system whose `flock` works across them.
        """
        return self._root is not None

    def uri_of(self, path: str) -> str:
        """Return the address of a path, usable outside this process."""
        return f"{self.uri}/{path}"

    def local_path(self, path: str) -> Path | None:
        """Return the path on this machine's disk, or None where the store is elsewhere."""
        return None if self._root is None else self._root / _inside(path)

    def read(self, path: str) -> bytes:
        """Return a small file's bytes. Raises FileNotFoundError."""
        return self._files.read(_inside(path))

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading. Raises FileNotFoundError."""
        return self._files.open(_inside(path))

    def download(self, path: str, target: Path) -> None:
        """Copy a file of any size to this machine's disk. Raises FileNotFoundError."""
        self._files.download(_inside(path), target)

    def write(self, path: str, content: Content) -> None:
        """Write a whole file; a reader sees the old bytes or the new, never a part."""
        self._files.write(_inside(path), content)

    def create(self, path: str, content: Content) -> bool:
        """Write a whole file where none is; return whether it was written. One of many callers is told True."""
        return self._files.create(_inside(path), content)

    def require_writable(self) -> None:
        """Try what a run will need.

        Raises:
            StoreError: nothing can be written, or a file can be put over another where that was to be refused.
        """
        name = f".probe-{uuid.uuid4().hex}"
        self.create(name, b"")
        again = self.create(name, b"")
        self.remove(name)
        if again:
            raise StoreError(
                f"store {self.uri} lets a second file take the place of a first, though it was asked not to "
                "(If-None-Match of S3): two machines could spoil each other's work. Use another server, or a newer "
                "version of this one."
            )

    def exists(self, path: str) -> bool:
        """Tell whether there is a file of this path."""
        return self._files.exists(_inside(path))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it; what is not there is fine."""
        self._files.remove(_inside(path))

    def keep_only(self, folder: str, names: set[str]) -> None:
        """Remove every file below a folder whose path relative to it is not named."""
        self._files.keep_only(_inside(folder), names)

    def scan(self, folder: str) -> dict[str, Found]:
        """Return the size and version of every file below a folder, by path relative to it, sorted."""
        return dict(sorted(self._files.scan(_inside(folder)).items()))

    def files(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below a folder, by path relative to it, sorted."""
        return {name: found.size for name, found in self.scan(folder).items()}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted, hidden ones aside."""
        return sorted(name for name in self._files.folders(_inside(folder)) if not name.startswith("."))


def _inside(path: str) -> str:
    """Return a path as it was given. Raises StoreError where it leaves the store, or has another spelling."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise StoreError(f"path {path!r} leaves the store; paths are relative and have no '..'")
    if path not in ("", ".") and path != "/".join(parts):
        raise StoreError(f"path {path!r} is to be written as {'/'.join(parts)!r}: to an object store they are two")
    return path
