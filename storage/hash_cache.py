"""Hashes of files, remembered: reading 20 GB takes the better part of a minute, and every plan asks for them.

A hash is kept under the fingerprint (size, times, inode) of what it was made of, as version control's index does. The
memory is a folder of small files, `$XDG_CACHE_HOME/lightgen/digests`; losing it costs one more reading.
"""

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_REMEMBERED = 16 << 20
"""Fewest bytes whose hash is remembered; fewer are hashed in hundredths of a second."""
_SETTLED = 2.0
"""Seconds after the last change from which a fingerprint is trusted: clocks of file systems are coarse."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Fingerprint(NamedTuple):
    bytes: int
    changed: float
    """Latest change, seconds since 1970. Nobody can set this time by hand, as one can the time of modification."""
    sha256: str


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content; that of a large file is computed once for each version of the file."""
    return _remembered([(b"", path)], lambda: _hashed(path))


def digest_of(files: Mapping[bytes, Path | None]) -> str:
    """Return the sha256 over names and contents of a set of files, wherever the files lie.

    A set that grows, or of which one file changes, has only that file read again, where the others are large.

    Args:
        files: by what the set calls each; None: there is a name and no content.
    """
    named = sorted(files.items())

    def total() -> str:
        found = hashlib.sha256()
        for name, path in named:
            found.update(b"%b\0%b\0" % (name, sha256_of(path).encode() if path else b""))
        return found.hexdigest()

    return _remembered(named, total)


def _remembered(named: Iterable[tuple[bytes, Path | None]], compute: Callable[[], str]) -> str:
    """Return a hash that is remembered of exactly these files; else compute it."""
    before = _fingerprint(named)
    if before.bytes < _REMEMBERED:
        return compute()
    memory = _folder() / before.sha256
    with contextlib.suppress(OSError, UnicodeDecodeError):  # a memory that is lost costs one more reading
        if _SHA256.fullmatch(known := memory.read_text()):
            return known
    found = compute()
    if time.time() - before.changed > _SETTLED and _fingerprint(named) == before:
        with contextlib.suppress(OSError):  # a folder that cannot be written costs time, nothing else
            memory.parent.mkdir(parents=True, exist_ok=True)
            partial = memory.with_suffix(f".{uuid.uuid4().hex}.partial")
            partial.write_text(found)
            partial.replace(memory)
    return found


def _fingerprint(named: Iterable[tuple[bytes, Path | None]]) -> _Fingerprint:
    size, changed, seen = 0, 0.0, hashlib.sha256()
    for name, path in named:
        seen.update(b"%b\0" % name)
        if path is not None:
            of = path.stat()
            seen.update(b"%d %d %d %d %d\0" % (of.st_size, of.st_mtime_ns, of.st_ctime_ns, of.st_ino, of.st_dev))
            size, changed = size + of.st_size, max(changed, of.st_ctime)
    return _Fingerprint(size, changed, seen.hexdigest())


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightgen" / "digests"


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
