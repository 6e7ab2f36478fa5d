"""Check of an artifact's files; each version of a file is hashed once."""

import contextlib
from collections.abc import Iterable, Mapping

from storage.hash_cache import hash_stream, load_hashes, save_hashes
from storage.manifest import FileEntry
from storage.store import FileInfo, Store


def find_corrupt(
    store: Store, artifact: str, entries: Iterable[FileEntry], *, rehash: bool = False, sizes_only: bool = False
) -> dict[str, str]:
    """Return the reason by name for each file that differs from its entry; cache the others.

    rehash: ignore the cache; sizes_only: compare no hashes, and cache nothing.
    """
    entries, listing = list(entries), store.list_files(artifact)
    verified = {} if rehash or sizes_only else load_hashes(store, cache_path(artifact))
    reasons: dict[str, str] = {}
    for entry in entries:
        if entry.path not in listing:
            reasons[entry.name] = f"{entry.path} is missing"
        elif listing[entry.path].size != entry.bytes:
            reasons[entry.name] = f"{entry.path} has {listing[entry.path].size} bytes, not {entry.bytes}"
        elif sizes_only or verified.get(entry.name) == _fingerprint(entry, listing):
            continue
        elif _sha256(store, f"{artifact}/{entry.path}") != entry.sha256:
            reasons[entry.name] = f"the content of {entry.path} is not what was written"
    intact = {entry.name: _fingerprint(entry, listing) for entry in entries if entry.name not in reasons}
    if not sizes_only and (rehash or intact != verified):
        save_hashes(store, cache_path(artifact), intact)
    return reasons


def mark_verified(store: Store, artifact: str, entries: Iterable[FileEntry], listing: Mapping[str, FileInfo]) -> None:
    """Cache the files of a listing as verified."""
    save_hashes(store, cache_path(artifact), {entry.name: _fingerprint(entry, listing) for entry in entries})


def cache_path(artifact: str) -> str:
    """Return the path of the hashes of an artifact's verified files."""
    return f".verified/{artifact.replace('/', '-')}.json"


def _sha256(store: Store, path: str) -> str:
    with contextlib.suppress(FileNotFoundError), store.open(path) as file:  # removed since the listing
        return hash_stream(file)
    return ""


def _fingerprint(entry: FileEntry, listing: Mapping[str, FileInfo]) -> str:
    return f"{listing[entry.path].etag} {entry.sha256}"
