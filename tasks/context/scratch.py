"""Local locks and checkpoint folders of a run, on its own machine's disk."""

import hashlib
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from storage.artifact import PROGRESS, Artifact
from storage.lock import file_lock
from storage.store import Store
from tasks.config.settings import Settings


def shared_store_lock(store: Store, settings: Settings) -> AbstractContextManager[bool]:
    """Hold a store as every run on this machine does, so that nothing is deleted from it meanwhile."""
    return file_lock(_store_lock_path(store, settings), shared=True)


def try_exclusive_store_lock(store: Store, settings: Settings) -> AbstractContextManager[bool]:
    """Lock a store against this machine's runs, to delete from it; the context's value is False if one is active."""
    return file_lock(_store_lock_path(store, settings), wait=False)


def _store_lock_path(store: Store, settings: Settings) -> Path:
    folder = store.local_path(".locks")
    if folder is not None:
        return folder / "in-use.lock"
    name = hashlib.sha256(store.uri.encode()).hexdigest()[:20]
    return Path(settings.scratch).expanduser() / ".locks" / f"in-use-{name}.lock"


class Scratch:
    """The scratch folder of one artifact: in a local store beside its files, else below `settings.scratch`."""

    def __init__(self, artifact: Artifact, settings: Settings) -> None:
        self._artifact, self._root = artifact, Path(settings.scratch).expanduser()
        self._in_store = artifact.store.local_path(f"{artifact.path}/{PROGRESS}/scratch")
        self.path = self._in_store or self._root / artifact.path
        """Path of the folder, whether it exists or not."""

    @property
    def folder(self) -> Path:
        """Folder that lives until the artifact is committed; created on first use."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def clear(self) -> None:
        """Remove the folder; one in a local store goes with the artifact's other unfinished files."""
        if self._in_store is None and self.path.exists():
            shutil.rmtree(self.path)

    def lock(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Lock the artifact against all that use the store; of a remote store, all that share this scratch folder.

        The context's value is False if another process holds it; with `wait` it is always True. Runs on other machines
        are not locked out: see `storage.artifact` for how they get along.
        """
        root = self._artifact.store.local_path("") or self._root
        return file_lock(root / ".locks" / f"{self._artifact.stage}-{self._artifact.key}.lock", wait=wait)
