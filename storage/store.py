"""A store: files under one address, each written as one step."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar, NamedTuple

Content = bytes | Path
"""Content of a file: bytes, or a local file of any size."""


class StoreError(Exception):
    """The store cannot be used: an address that does not open, a path that leaves it, no permission."""


class StoreUnavailable(StoreError):
    """The store did not answer; the same call may succeed later."""


class FileInfo(NamedTuple):
    """A file in a listing."""

    size: int
    """Bytes."""
    etag: str
    """Text that changes when the file is written with other bytes."""


class Store(ABC):
    """Files under one URI, by relative path.

    Promises, each with a test in the contract suite (`tests/storage/test_store_contract.py`):

    - A file that can be seen is complete: a write shows all of its bytes or none, and one that fails shows none.
    - `create` writes a file only if there is none. Of any number of callers, on any machines, one gets True.
    - What one caller has written or removed, every caller sees from then on; no listing is stale.
    - A file's etag changes when it is written with other bytes.

    Files of any size pass through in pieces. A missing file raises FileNotFoundError when it is read, and is no error
    when it is removed or listed. A path that leaves the store, or has another spelling, raises StoreError.
    """

    supports_locking: ClassVar[bool] = False
    """A lock on a file in the store holds against every other process that uses it.

    Then one process holds an artifact alone (`scratch.lock`) and may overwrite its files. So it is with a folder of one
    machine; machines that share one need a file system whose `flock` works across them.
    """

    uri: str
    """Address of the store."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def uri_of(self, path: str) -> str:
        """Return the address of a path, usable outside this process."""
        return f"{self.uri}/{path}"

    def local_path(self, path: str) -> Path | None:
        """Return the path on this machine's disk; None if the store is elsewhere."""
        return None

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return a small file's bytes."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading at any position."""

    @abstractmethod
    def download(self, path: str, target: Path) -> None:
        """Copy a file to this machine's disk."""

    @abstractmethod
    def write(self, path: str, content: Content) -> None:
        """Write a file, replacing any that is there."""

    @abstractmethod
    def create(self, path: str, content: Content) -> bool:
        """Write a file unless one is there; return whether it was written."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy a file within the store, without reading it here; replaces any file that is at `target`."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether there is a file of this path."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, or a folder and its contents."""

    @abstractmethod
    def delete_except(self, folder: str, names: set[str]) -> None:
        """Remove every file of a folder, interrupted writes too, except those named by relative path."""

    @abstractmethod
    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below a folder by relative path, sorted."""

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Return the names of a folder's subfolders, sorted, without hidden ones."""

    def files(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below a folder by relative path, sorted."""
        return {name: info.size for name, info in self.list_files(folder).items()}

    def require_writable(self) -> None:
        """Raise StoreError if nothing can be written, or a conditional write replaces a file."""
        name = f".probe-{uuid.uuid4().hex}"
        self.create(name, b"")
        replaced = self.create(name, b"")
        self.remove(name)
        if replaced:
            raise StoreError(
                f"store {self.uri} lets a second file replace the first, though it was asked not to "
                "(If-None-Match of S3): two machines could spoil each other's work. Use another server, or a newer "
                "version of this one."
            )


def check_path(path: str) -> str:
    """Return a path unchanged. Raises StoreError if it leaves the store, or has another spelling."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise StoreError(f"path {path!r} leaves the store; paths are relative and have no '..'")
    if path not in ("", ".") and path != "/".join(parts):
        raise StoreError(f"path {path!r} is to be written as {'/'.join(parts)!r}: to an object store they are two")
    return path
