"""Local copies of a remote store's files, each compared with its hash."""

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

from storage.hash_cache import hash_file
from storage.store import Store

MAX_AGE_SECONDS = 30 * 24 * 3600
"""Time without use after which copies are removed: longer than any training, which opens its files once."""


def fetch(store: Store, path: str, sha256: str, copy: Path) -> bool:
    """Copy a file from a store if it has this hash; return whether it has.

    Any number of processes may fetch one file at once.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    temp = copy.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        store.download(path, temp)
        if intact := hash_file(temp) == sha256:
            temp.replace(copy)
        return intact
    except FileNotFoundError:  # removed by another run
        return False
    finally:
        temp.unlink(missing_ok=True)


def touch_and_evict(folder: Path) -> None:
    """Mark a folder of copies as used; remove its siblings that are out of use."""
    os.utime(folder)
    for other in folder.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run removes it too
            if time.time() - other.stat().st_mtime > MAX_AGE_SECONDS:
                shutil.rmtree(other)
