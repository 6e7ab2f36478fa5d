"""Check of an artifact's files; each version of a file is hashed once."""

import contextlib
from collections.abc import Iterable, Mapping

from storage.hash_cache import HashCache, hash_stream
from storage.manifest import FileEntry
from storage.store import FileInfo, Store


def find_corrupt(
    store: Store, artifact: str, entries: Iterable[FileEntry], *, rehash: bool = False, sizes_only: bool = False
) -> dict[str, str]:
    """Return the reason by name for each file that differs from its entry; cache the others.

    Args:
        artifact: its folder in the store.
        rehash: ignore the cache.
        sizes_only: compare no hashes, and cache nothing.
    """
    entries, listing, cache = list(entries), store.list_files(artifact), _cache(store, artifact)
    verified = {} if rehash or sizes_only else cache.load()
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
        cache.save(intact)
    return reasons


def mark_verified(store: Store, artifact: str, entries: Iterable[FileEntry], listing: Mapping[str, FileInfo]) -> None:
    """Cache the files of a listing as verified."""
    _cache(store, artifact).save({entry.name: _fingerprint(entry, listing) for entry in entries})


def invalidate(store: Store, artifact: str) -> None:
    """Forget which files of an artifact were verified."""
    _cache(store, artifact).clear()


def _sha256(store: Store, path: str) -> str:
    with contextlib.suppress(FileNotFoundError), store.open(path) as file:  # removed since the listing
        return hash_stream(file)
    return ""


def _fingerprint(entry: FileEntry, listing: Mapping[str, FileInfo]) -> str:
    return f"{listing[entry.path].etag} {entry.sha256}"


def _cache(store: Store, artifact: str) -> HashCache:
    return HashCache(store, f".verified/{artifact.replace('/', '-')}.json")
