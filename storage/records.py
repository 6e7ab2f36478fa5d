"""Progress records of an unfinished artifact: one small file for each finished file."""

from concurrent.futures import ThreadPoolExecutor

from storage.manifest import FileEntry
from storage.store import Store

_MAX_CONCURRENCY = 16
"""Records read at once."""


def read_records(store: Store, folder: str) -> dict[str, FileEntry]:
    """Return the records of a folder by file name."""

    def read(name: str) -> FileEntry | None:
        try:
            return FileEntry.model_validate_json(store.read(f"{folder}/{name}"))
        except FileNotFoundError:  # pruned since the listing
            return None

    with ThreadPoolExecutor(_MAX_CONCURRENCY) as pool:
        return {entry.name: entry for entry in pool.map(read, store.files(folder)) if entry}
