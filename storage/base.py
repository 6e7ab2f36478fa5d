"""What a place for files must be able to do to be a store, and how it says that it cannot."""

from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

Content = bytes | Path
"""What a file is to hold: bytes, or the content of a local file of any size."""


class StoreError(Exception):
    """The store cannot be used as asked: an address that does not open, a path that leaves it, no permission."""


class StoreUnavailable(StoreError):
    """The store did not answer, or with an error of its own; the same call may succeed later."""


class Found(NamedTuple):
    """A file in a listing."""

    size: int
    """Bytes."""
    version: str
    """Text that changes when the file is written with other bytes."""


class Files(Protocol):
    """Files below a root, by relative path.

    Promises, each with a test in the contract suite (`tests/storage/test_store_contract.py`):

    - A file that can be seen is whole: a write shows all of its bytes or none, and one that fails shows none.
    - `create` writes a file only where none is. Of any number of callers at once, on any machines, one is told True.
    - What one caller has written or removed, every caller sees from then on; no listing is stale.
    - A file's version in a listing changes when it is written with other bytes.

    Files of any size pass through in pieces. What is not there raises FileNotFoundError where it is read, and is fine
    where it is removed or listed.
    """

    def read(self, path: str) -> bytes:
        """Return a small file's bytes."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading at any position."""
        ...

    def download(self, path: str, target: Path) -> None:
        """Copy a file to this machine's disk."""
        ...

    def write(self, path: str, content: Content) -> None:
        """Write a whole file, instead of the one that may be there."""
        ...

    def create(self, path: str, content: Content) -> bool:
        """Write a whole file unless one is there; return whether it was written."""
        ...

    def exists(self, path: str) -> bool:
        """Tell whether there is a file of this path."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it."""
        ...

    def keep_only(self, folder: str, names: set[str]) -> None:
        """Remove every file below a folder whose path relative to it is not named, torsos of killed writes too."""
        ...

    def scan(self, folder: str) -> dict[str, Found]:
        """Return every whole file below a folder, by path relative to it, in any order."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder, in any order."""
        ...
