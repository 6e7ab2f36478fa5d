"""What an unfinished run has finished so far: one small file for each whole file of the artifact."""

from concurrent.futures import ThreadPoolExecutor

from storage.manifest import FileEntry
from storage.store import Store

_AT_ONCE = 16
"""Records read at once."""


def write_record(store: Store, folder: str, entry: FileEntry) -> None:
    """Write down that a file is whole, in place of what was written of it before."""
    store.write(f"{folder}/{entry.name}.json", entry.model_dump_json().encode())


def read_records(store: Store, folder: str) -> dict[str, FileEntry]:
    """Return the records of a folder by the name of the file they tell of."""

    def read(name: str) -> FileEntry | None:
        try:
            return FileEntry.model_validate_json(store.read(f"{folder}/{name}"))
        except FileNotFoundError:  # tidied up since the listing
            return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {entry.name: entry for entry in pool.map(read, store.files(folder)) if entry}
