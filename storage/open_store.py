"""Open a store by its address."""

from pathlib import Path

from storage.store import Store


def open_store(uri: str) -> Store:
    """Open a folder or URL of `storage.fsspec_store.PACKAGES`. Raises StoreError if something is missing."""
    if "://" in uri and not uri.startswith("file://"):
        from storage.fsspec_store import FsspecStore  # a folder must not load its dependencies

        return FsspecStore(uri if uri.endswith("://") else uri.rstrip("/"))
    from storage.local import LocalStore

    return LocalStore(Path(uri.removeprefix("file://")))
