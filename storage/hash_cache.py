"""Cached file hashes: hashing 20 GB takes most of a minute, and every plan needs them.

A hash is kept with a fingerprint of its file, as in git's index; losing the cache costs one more reading. Hashes of
user files are kept in `$XDG_CACHE_HOME/lightgen/digests`, those of an artifact's files in its store.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from storage.local import LocalStore
from storage.store import Store, StoreError

_MIN_BYTES = 16 << 20
"""Fewest bytes whose hash is cached; fewer are hashed in hundredths of a second."""
_SETTLE_SECONDS = 2.0
"""Age at which a fingerprint is trusted: file system clocks are coarse."""


def load_hashes(store: Store, path: str) -> dict[str, str]:
    """Return the entries of a cache file; none if it is missing or corrupt."""
    try:
        entries = json.loads(store.read(path))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def save_hashes(store: Store, path: str, entries: Mapping[str, str]) -> None:
    """Replace the entries of a cache file, if the store can be written to."""
    with contextlib.suppress(OSError, StoreError):
        store.write(path, json.dumps(entries, sort_keys=True).encode())


class _Fingerprint(NamedTuple):
    bytes: int
    changed: float
    """Latest ctime, seconds since 1970. It cannot be set by hand, as the modification time can."""
    sha256: str


def hash_stream(file: BinaryIO) -> str:
    """Return the sha256 of an open file's content."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, without a cache."""
    with path.open("rb") as file:
        return hash_stream(file)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, cached for large files."""
    return _cached([(b"", path)], lambda: hash_file(path))


def digest_of(files: Mapping[bytes, Path | None]) -> str:
    """Return the sha256 over the names and contents of a set of files; a path of None is a name without content.

    If large files are added or changed, only those are read again.
    """
    named = sorted(files.items())

    def compute() -> str:
        digest = hashlib.sha256()
        for name, path in named:
            digest.update(b"%b\0%b\0" % (name, sha256_of(path).encode() if path else b""))
        return digest.hexdigest()

    return _cached(named, compute)


def _cached(named: Iterable[tuple[bytes, Path | None]], compute: Callable[[], str]) -> str:
    before = _fingerprint(named)
    if before.bytes < _MIN_BYTES:
        return compute()
    try:
        store = LocalStore(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lightgen" / "digests")
    except (OSError, StoreError):  # a folder that cannot be used costs time, nothing else
        return compute()
    path = f"{before.sha256}.json"
    if before.sha256 in (entries := load_hashes(store, path)):
        return entries[before.sha256]
    digest = compute()
    if time.time() - before.changed > _SETTLE_SECONDS and _fingerprint(named) == before:
        save_hashes(store, path, {before.sha256: digest})
    return digest


def _fingerprint(named: Iterable[tuple[bytes, Path | None]]) -> _Fingerprint:
    size, changed, digest = 0, 0.0, hashlib.sha256()
    for name, path in named:
        digest.update(b"%b\0" % name)
        if path is not None:
            stat = path.stat()
            numbers = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev
            digest.update(b"%d %d %d %d %d\0" % numbers)
            size, changed = size + stat.st_size, max(changed, stat.st_ctime)
    return _Fingerprint(size, changed, digest.hexdigest())
