"""Which files of an artifact are as they were written. What was found is kept in the store, beside its locks.

A file is hashed once for each version of it, as by version control: to look at a large store then costs a listing.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from storage.base import Found
from storage.manifest import FileEntry
from storage.store import Store, StoreError


def faults(
    store: Store, artifact: str, entries: Iterable[FileEntry], *, rehash: bool = False, sizes_only: bool = False
) -> dict[str, str]:
    """Compare files with their entries; return what is wrong, by name, and remember the others.

    Args:
        artifact: its folder in the store.
        rehash: trust nothing that is remembered.
        sizes_only: trust every file that has its size, and remember nothing.
    """
    entries, there = list(entries), store.scan(artifact)
    known = {} if rehash or sizes_only else _remembered(store, artifact)
    found: dict[str, str] = {}
    for entry in entries:
        if entry.path not in there:
            found[entry.name] = f"{entry.path} is missing"
        elif there[entry.path].size != entry.bytes:
            found[entry.name] = f"{entry.path} has {there[entry.path].size} bytes, not {entry.bytes}"
        elif sizes_only or known.get(entry.name) == _version(entry, there):
            continue
        elif _sha256(store, f"{artifact}/{entry.path}") != entry.sha256:
            found[entry.name] = f"the content of {entry.path} is not what was written"
    sound = {entry.name: _version(entry, there) for entry in entries if entry.name not in found}
    if not sizes_only and (rehash or sound != known):
        _remember(store, artifact, sound)
    return found


def trust(store: Store, artifact: str, entries: Iterable[FileEntry], there: Mapping[str, Found]) -> None:
    """Remember files of a listing as they are."""
    _remember(store, artifact, {entry.name: _version(entry, there) for entry in entries})


def forget(store: Store, artifact: str) -> None:
    """Remove what is remembered."""
    store.remove(_place(artifact))


def sha256(file: BinaryIO) -> str:
    """Return the hash of an open file's content."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sha256(store: Store, path: str) -> str:
    with contextlib.suppress(FileNotFoundError), store.open(path) as file:  # removed since the listing
        return sha256(file)
    return ""


def _version(entry: FileEntry, there: Mapping[str, Found]) -> str:
    """Return what must be as it was when a file's hash was computed."""
    return f"{there[entry.path].version} {entry.sha256}"


def _remember(store: Store, artifact: str, seen: Mapping[str, str]) -> None:
    with contextlib.suppress(StoreError):  # a store that cannot be written to can still be looked at
        store.write(_place(artifact), json.dumps(seen, sort_keys=True).encode())


def _remembered(store: Store, artifact: str) -> dict[str, str]:
    try:
        return json.loads(store.read(_place(artifact)))
    except (FileNotFoundError, ValueError):  # a memory that is lost costs one more hash
        return {}


def _place(artifact: str) -> str:
    return f".verified/{artifact.replace('/', '-')}.json"
