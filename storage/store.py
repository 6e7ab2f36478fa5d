"""A store: a folder on any fsspec file system, with whole-file writes and locks."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage.lock import file_lock


class StoreError(Exception):
    """The store cannot be used as asked: a URI that does not open, a path that leaves the store."""


class Store:
    """Files under one URI: a local path, `memory://name`, `s3://bucket/prefix`, or any fsspec URL.

    Promises: a file that can be seen is whole (a write shows all of its bytes or none); `fingerprint` changes when a
    file is written again; listings are never stale.
    """

    def __init__(self, uri: str) -> None:
        try:
            options: dict[str, Any] = (
                {} if "://" not in uri or uri.startswith(("file:", "memory:")) else {"use_listings_cache": False}
            )
            self._fs, root = fsspec.core.url_to_fs(str(Path(uri).expanduser()) if "://" not in uri else uri, **options)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"store {uri!r} cannot be opened: {error}. Give a folder or an fsspec URL such as s3://bucket/prefix."
            ) from error
        self._root = PurePosixPath(root)
        self._local = isinstance(self._fs, LocalFileSystem)
        self.uri = str(root) if self._local else uri.rstrip("/")

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def _full(self, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise StoreError(f"path {path!r} leaves the store; paths are relative and have no '..'")
        return str(self._root / path)

    def uri_of(self, path: str) -> str:
        """Return the address of a path, usable outside this process."""
        return f"{self.uri}/{path}"

    def local_path(self, path: str) -> Path | None:
        """Return the path on this machine's disk, or None where the store is elsewhere."""
        return Path(self._full(path)) if self._local else None

    def read(self, path: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""
        return self._fs.cat_file(self._full(path))

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading. Raises FileNotFoundError."""
        return self._fs.open(self._full(path), "rb")

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file; a reader sees the old bytes or the new, never a part."""
        with self._whole_file(path) as file:
            file.write(data)

    def upload(self, path: str, source: Path) -> None:
        """Copy a local file into the store, whole, without holding it in memory."""
        with source.open("rb") as reader, self._whole_file(path) as file:
            while block := reader.read(1 << 24):
                file.write(block)

    @contextlib.contextmanager
    def _whole_file(self, path: str) -> Iterator[BinaryIO]:
        full = self._full(path)
        if not self._local:  # an object store shows an object when its upload has ended
            with self._fs.open(full, "wb") as file:
                yield file
            return
        whole = Path(full)
        whole.parent.mkdir(parents=True, exist_ok=True)
        partial = whole.with_name(f"{whole.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(whole)
        finally:
            partial.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return self._fs.exists(self._full(path))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it; what is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._full(path), recursive=True)

    def files(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below a folder, by path relative to it, sorted."""
        full = self._full(folder)
        try:
            found = self._fs.find(full, detail=True)
        except FileNotFoundError:
            return {}
        names = {
            str(PurePosixPath(self._fs._strip_protocol(path)).relative_to(full)): info["size"]
            for path, info in found.items()
        }
        return {name: names[name] for name in sorted(names) if not name.endswith(".partial")}

    def keep_only(self, folder: str, names: set[str], except_below: str) -> None:
        """Remove every file of a folder that is not named, aside from those in its folder `except_below`."""
        full = self._full(folder)
        for path in self._fs.find(full):
            name = str(PurePosixPath(self._fs._strip_protocol(path)).relative_to(full))
            if name not in names and not name.startswith(f"{except_below}/"):
                self._fs.rm_file(path)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, sorted, hidden ones aside."""
        try:
            entries = self._fs.ls(self._full(folder), detail=True)
        except FileNotFoundError:
            return []
        names = [PurePosixPath(entry["name"].rstrip("/")).name for entry in entries if entry["type"] == "directory"]
        return sorted(name for name in names if not name.startswith("."))

    def fingerprint(self, path: str) -> str:
        """Return a short text that changes when the file is written again (size, time, inode; or an entity tag)."""
        return self._fs.ukey(self._full(path))

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a name against other processes of this machine.

        A lock spares doing work twice; nothing depends on it for correctness, since every write is whole and the same
        key gives the same bytes. A remote store therefore goes without.
        """
        if not self._local:
            yield
            return
        with file_lock(Path(self._full(f".locks/{name}.lock"))):
            yield
