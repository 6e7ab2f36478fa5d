"""Files in an object store, reached through fsspec."""

import contextlib
import functools
import io
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Concatenate, ParamSpec, TypeVar

import fsspec

from storage import s3
from storage.base import Content, Found, StoreError

PACKAGES = {
    "memory": "fsspec",
    "s3": "'lightgen[s3]'",
    "s3a": "'lightgen[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}
"""What to install for each kind of address; all have whole writes, and writes that are refused where a file is."""

AT_ONCE = 16
"""Requests under way at once where many files are removed or read."""

_CONFLICTS = 6
"""Attempts at a conditional write that meets another one; the rest after the first is 0.1 s, and doubles."""

P = ParamSpec("P")
R = TypeVar("R")


def _told(method: Callable[Concatenate["RemoteFiles", P], R]) -> Callable[Concatenate["RemoteFiles", P], R]:
    """Let a method raise a StoreError, written for a person, where the store or the way to it is at fault."""

    @functools.wraps(method)
    def call(self: "RemoteFiles", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except self.faults as error:
            told = s3.explained(error, self.uri, s3.endpoint(self._fs)) if self.is_s3 else None
            if told is None and isinstance(error, PermissionError):
                told = StoreError(f"store {self.uri} denies access: {error}. Give its credentials the right to write.")
            if told is None:
                raise
            raise told from error

    return call


class RemoteFiles:
    """Files below `protocol://bucket/prefix`; see `storage.base.Files`.

    Run against S3 (moto) and memory; for Google's and Azure's stores the promises are those of their documentation, and
    `LIGHTGEN_TEST_STORE=gs://bucket/prefix pytest tests/storage/test_store_contract.py` checks them.

    Raises:
        StoreError: the protocol is not among `PACKAGES`, its package is not installed, or the bucket cannot be used.
    """

    _memory: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, uri: str) -> None:
        protocol = uri.partition("://")[0]
        if protocol not in PACKAGES:
            raise StoreError(
                f"store {uri!r} cannot be opened: {protocol}:// is not known to write files whole, and only where none "
                "is, which a store must.\n"
                f"Give a folder or an fsspec URL such as s3://bucket/prefix ({', '.join(PACKAGES)})."
            )
        self.uri = uri
        self.is_s3 = protocol in ("s3", "s3a")
        self._in_memory = protocol == "memory"
        self._connect()

    def _connect(self) -> None:
        protocol = self.uri.partition("://")[0]
        try:
            if self.is_s3:
                self.faults: tuple[type[Exception], ...] = (OSError, *s3.faults())
            else:
                self.faults = (OSError,)
            # an instance and a listing that others share could be of another account, or stale
            self._fs, root = fsspec.core.url_to_fs(
                self.uri, use_listings_cache=False, skip_instance_cache=True, **(s3.options() if self.is_s3 else {})
            )
        except ImportError as error:
            raise StoreError(
                f"store {self.uri!r} needs a package that is not installed: {error}.\n"
                f"Install it: pip install {PACKAGES[protocol]}"
            ) from error
        self._root = root.rstrip("/")
        if not self._root:
            raise StoreError(f"store {self.uri!r} names no bucket; give {protocol}://bucket/prefix")
        if self.is_s3:
            self._probe()

    @_told
    def _probe(self) -> None:
        s3.probe(self._fs, self._root, self.uri)

    def _full(self, path: str) -> str:
        return self._root if path in ("", ".") else f"{self._root}/{path}"

    @_told
    def read(self, path: str) -> bytes:
        """Return a small file's bytes, by one request."""
        return self._fs.cat_file(self._full(path), **(s3.ONE_REQUEST if self.is_s3 else {}))

    @_told
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; memory holds a block of it."""
        if self._in_memory:
            return io.BytesIO(self.read(path))  # the file itself has one position for all its readers
        return self._fs.open(self._full(path), "rb", **(s3.BLOCKS if self.is_s3 else {}))

    @_told
    def download(self, path: str, target: Path) -> None:
        """Copy a file to this machine's disk; memory holds a few parts of it."""
        if self._in_memory:
            target.write_bytes(self.read(path))
        else:
            self._fs.get_file(self._full(path), str(target), **(s3.transfer(0) if self.is_s3 else {}))

    @_told
    def write(self, path: str, content: Content) -> None:
        """Write a whole file; memory holds a few parts of it."""
        self._put(path, content, "overwrite")

    @_told
    def create(self, path: str, content: Content) -> bool:
        """Write a whole file unless one is there."""
        if isinstance(content, Path) and self.exists(path):
            return False  # spares sending it
        for attempt in range(_CONFLICTS):
            try:
                with self._memory if self._in_memory else contextlib.nullcontext():
                    self._put(path, content, "create")
            except FileExistsError:
                return False
            except OSError as error:
                if not self.is_s3 or s3.code(error) not in (s3.THERE, s3.CONFLICT):
                    raise
                if s3.code(error) == s3.THERE:
                    return False
                if attempt + 1 == _CONFLICTS:
                    raise
                time.sleep(0.1 * 2**attempt)
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def _put(self, path: str, content: Content, mode: str) -> None:
        if self._in_memory and isinstance(content, Path):
            content = content.read_bytes()  # copied in pieces, it would be seen before it is whole
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        how = {"mode": mode} | (s3.transfer(size) if self.is_s3 else {})
        if isinstance(content, bytes):
            self._fs.pipe_file(self._full(path), content, **how)
        else:
            self._fs.put_file(str(content), self._full(path), **how)

    @_told
    def exists(self, path: str) -> bool:
        """Tell whether there is a file of this path."""
        try:
            return self._fs.info(self._full(path))["type"] == "file"
        except FileNotFoundError:
            return False

    @_told
    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it."""
        self._remove(self._fs.find(self._full(path)))

    @_told
    def keep_only(self, folder: str, names: set[str]) -> None:
        """Remove every file below a folder whose path is not named."""
        start = f"{self._full(folder)}/"
        self._remove(path for path in self._fs.find(self._full(folder)) if path.removeprefix(start) not in names)

    def _remove(self, paths: Iterable[str]) -> None:
        """Remove files one by one: S3's removal of many at once leaves out, unsaid, what it may not remove."""

        def remove(path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(remove, paths))

    @_told
    def scan(self, folder: str) -> dict[str, Found]:
        """Return every file below a folder, by one request for each thousand."""
        start = f"{self._full(folder)}/"
        found: dict[str, dict[str, Any]] = self._fs.find(self._full(folder), detail=True)
        return {
            path.removeprefix(start): Found(info["size"], _version(info))
            for path, info in found.items()
            if path.startswith(start) and not path.endswith("/")  # such a name stands for an empty folder
        }

    @_told
    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder."""
        try:
            entries = self._fs.ls(self._full(folder), detail=True)
        except FileNotFoundError:
            return []
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"]


def _version(info: dict[str, Any]) -> str:
    """Return an object's entity tag, or the time at which it was written."""
    return next(str(info[name]) for name in ("ETag", "etag", "created") if info.get(name))
