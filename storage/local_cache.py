"""Copies of a remote store's files on this machine's disk, each compared with its hash."""

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from storage.manifest import FileEntry
from storage.store import Store

UNUSED = 30 * 24 * 3600
"""Seconds without use after which copies are removed: longer than any training, which asks for its files once."""


def name_of_making(entries: Iterable[FileEntry]) -> str:
    """Return a short name for the content of an artifact: two makings of one key may differ, as on two GPUs."""
    content = hashlib.sha256()
    for entry in entries:
        content.update(entry.sha256.encode())
    return content.hexdigest()[:8]


def fetch(store: Store, path: str, sha256: str, copy: Path) -> bool:
    """Copy a file from a store, if its content has this hash, and tell whether it has; else there is no copy.

    Any number of processes may fetch one file at once.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        store.download(path, partial)
        whole = sha256_of(partial) == sha256
        if whole:
            partial.replace(copy)
        return whole
    except FileNotFoundError:  # removed by another run
        return False
    finally:
        partial.unlink(missing_ok=True)


def note_use(making: Path) -> None:
    """Note that a folder of copies is in use, and remove the folders beside it that were not for long."""
    os.utime(making)
    for other in making.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run removes it too
            if time.time() - other.stat().st_mtime > UNUSED:
                shutil.rmtree(other)


def sha256_of(path: Path) -> str:
    """Return the hash of a local file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
