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
from storage.store import Content, FileInfo, Store, StoreError, check_path

PACKAGES = {
    "memory": "fsspec",
    "s3": "'lightgen[s3]'",
    "s3a": "'lightgen[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}
"""Package to install for each protocol; all have atomic and conditional writes."""

MAX_CONCURRENCY = 16
"""Requests in flight when many files are removed or read."""

_MAX_ATTEMPTS = 6
"""Attempts at a conditional write during another one; waits 0.1 s after the first, and doubles."""

P = ParamSpec("P")
R = TypeVar("R")


def _translate_errors(method: Callable[Concatenate["FsspecStore", P], R]) -> Callable[Concatenate["FsspecStore", P], R]:
    """Make a method raise StoreError if the store or the connection fails."""

    @functools.wraps(method)
    def call(self: "FsspecStore", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except self._client_errors as error:
            translated = s3.translate_error(error, self.uri, s3.endpoint(self._fs)) if self._is_s3 else None
            if translated is not None:
                raise translated from error
            if isinstance(error, PermissionError):
                message = f"store {self.uri} denies access: {error}. Grant its credentials write access."
                raise StoreError(message) from error
            raise

    return call


class FsspecStore(Store):
    """Files below `protocol://bucket/prefix`.

    Run against S3 (moto) and memory; for Google's and Azure's stores the promises are those of their documentation, and
    `LIGHTGEN_TEST_STORE=gs://bucket/prefix pytest tests/storage/test_store_contract.py` checks them.

    Raises:
        StoreError: the protocol is not among `PACKAGES`, its package is not installed, or the bucket cannot be used.
    """

    _memory_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, uri: str) -> None:
        protocol = uri.partition("://")[0]
        if protocol not in PACKAGES:
            raise StoreError(
                f"store {uri!r} cannot be opened: {protocol}:// is not known to write files in one step, and only if "
                "there is none, which a store must.\n"
                f"Give a folder or an fsspec URL such as s3://bucket/prefix ({', '.join(PACKAGES)})."
            )
        self.uri = uri
        self._is_s3 = protocol in ("s3", "s3a")
        self._in_memory = protocol == "memory"
        self._client_errors: tuple[type[Exception], ...] = (OSError,)
        try:
            if self._is_s3:
                self._client_errors = (OSError, *s3.client_errors())
            # an instance and a listing that others share could be of another account, or stale
            self._fs, root = fsspec.core.url_to_fs(
                uri, use_listings_cache=False, skip_instance_cache=True, **(s3.options() if self._is_s3 else {})
            )
        except ImportError as error:
            raise StoreError(
                f"store {uri!r} needs a package that is not installed: {error}.\n"
                f"Install it: pip install {PACKAGES[protocol]}"
            ) from error
        self._root = root.rstrip("/")
        if not self._root:
            raise StoreError(f"store {uri!r} names no bucket; give {protocol}://bucket/prefix")
        if self._is_s3:
            self._probe()

    @_translate_errors
    def _probe(self) -> None:
        s3.probe(self._fs, self._root, self.uri)

    def _full(self, path: str) -> str:
        return self._root if check_path(path) in ("", ".") else f"{self._root}/{path}"

    @_translate_errors
    def read(self, path: str) -> bytes:
        """Return a small file's bytes, by one request."""
        return self._fs.cat_file(self._full(path), **(s3.ONE_REQUEST if self._is_s3 else {}))

    @_translate_errors
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading, with a block of it in memory."""
        if self._in_memory:
            return io.BytesIO(self.read(path))  # the file itself has one position for all its readers
        return self._fs.open(self._full(path), "rb", **(s3.BLOCKS if self._is_s3 else {}))

    @_translate_errors
    def download(self, path: str, target: Path) -> None:
        """Copy a file to disk, with a few parts of it in memory."""
        if self._in_memory:
            target.write_bytes(self.read(path))
        else:
            self._fs.get_file(self._full(path), str(target), **(s3.transfer(0) if self._is_s3 else {}))

    @_translate_errors
    def write(self, path: str, content: Content) -> None:
        self._put(path, content, "overwrite")

    @_translate_errors
    def create(self, path: str, content: Content) -> bool:
        if isinstance(content, Path) and self.exists(path):
            return False  # avoids sending it
        for attempt in range(_MAX_ATTEMPTS):
            try:
                with self._memory_lock if self._in_memory else contextlib.nullcontext():
                    self._put(path, content, "create")
            except FileExistsError:
                return False
            except OSError as error:
                if self._is_s3 and s3.code(error) == s3.PRECONDITION_FAILED:
                    return False
                if not self._is_s3 or s3.code(error) != s3.CONFLICT or attempt + 1 == _MAX_ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**attempt)
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def _put(self, path: str, content: Content, mode: str) -> None:
        if self._in_memory and isinstance(content, Path):
            content = content.read_bytes()  # copied in pieces, it would be seen before it is complete
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        options = {"mode": mode} | (s3.transfer(size) | s3.content_type(path) if self._is_s3 else {})
        if isinstance(content, bytes):
            self._fs.pipe_file(self._full(path), content, **options)
        else:
            self._fs.put_file(str(content), self._full(path), **options)

    @_translate_errors
    def copy(self, source: str, target: str) -> None:
        """Have the store copy a file itself."""
        self._fs.cp_file(self._full(source), self._full(target))

    @_translate_errors
    def exists(self, path: str) -> bool:
        try:
            return self._fs.info(self._full(path))["type"] == "file"
        except FileNotFoundError:
            return False

    @_translate_errors
    def remove(self, path: str) -> None:
        self._remove(self._fs.find(self._full(path)))

    @_translate_errors
    def delete_except(self, folder: str, names: set[str]) -> None:
        start = f"{self._full(folder)}/"
        self._remove(path for path in self._fs.find(self._full(folder)) if path.removeprefix(start) not in names)

    def _remove(self, paths: Iterable[str]) -> None:
        """Remove files one by one: S3's bulk removal silently skips what it may not remove."""

        def remove(path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)

        with ThreadPoolExecutor(MAX_CONCURRENCY) as pool:
            list(pool.map(remove, paths))

    @_translate_errors
    def list_files(self, folder: str) -> dict[str, FileInfo]:
        """Return every file below a folder, a thousand for each request."""
        start = f"{self._full(folder)}/"
        entries: dict[str, dict[str, Any]] = self._fs.find(self._full(folder), detail=True)
        return {
            path.removeprefix(start): FileInfo(
                info["size"], str(info.get("ETag") or info.get("etag") or info["created"])
            )
            for path, info in sorted(entries.items())
            if path.startswith(start) and not path.endswith("/")  # such a name stands for an empty folder
        }

    @_translate_errors
    def folders(self, folder: str) -> list[str]:
        try:
            entries = self._fs.ls(self._full(folder), detail=True)
        except FileNotFoundError:
            return []
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")
        return sorted(name for name in names if not name.startswith("."))
