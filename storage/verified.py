"""Which versions of an artifact's files were found to have the right hash: kept in the store, beside its locks."""

import contextlib
import json
from collections.abc import Mapping

from storage.store import Store, StoreError


def remember(store: Store, artifact: str, seen: Mapping[str, str]) -> None:
    """Write down the version and hash of each file that was verified, where the store can be written to."""
    with contextlib.suppress(StoreError):
        store.write(_place(artifact), json.dumps(seen, sort_keys=True).encode())


def remembered(store: Store, artifact: str) -> dict[str, str]:
    """Return what was written down last."""
    try:
        return json.loads(store.read(_place(artifact)))
    except (FileNotFoundError, ValueError):  # a memory that is lost costs one more hash
        return {}


def forget(store: Store, artifact: str) -> None:
    """Remove what was written down."""
    store.remove(_place(artifact))


def _place(artifact: str) -> str:
    return f".verified/{artifact.replace('/', '-')}.json"
