"""Local locks and checkpoint folders of a run, on its own machine's disk."""

import hashlib
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Scratch:
    """The scratch folder of one artifact: in a local store beside its files, else below `settings.scratch`."""

    artifact: Artifact
    settings: Settings

    @property
    def folder(self) -> Path:
        """Folder that lives until the artifact is committed; created on first use."""
        folder = self._in_store or self._below_scratch
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear(self) -> None:
        """Remove the folder; one in a local store goes with the artifact's other unfinished files."""
        if self._in_store is None and self._below_scratch.exists():
            shutil.rmtree(self._below_scratch)

    def lock(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Lock the artifact against all that use the store; of a remote store, all that share this scratch folder.

        The context's value is False if another process holds it; with `wait` it is always True. Runs on other machines
        are not locked out: see `storage.artifact` for how they get along.
        """
        root = self.artifact.store.local_path("") or self._root
        return file_lock(root / ".locks" / f"{self.artifact.stage}-{self.artifact.key}.lock", wait=wait)

    @property
    def _in_store(self) -> Path | None:
        return self.artifact.store.local_path(f"{self.artifact.path}/{PROGRESS}/scratch")

    @property
    def _below_scratch(self) -> Path:
        return self._root / self.artifact.path

    @property
    def _root(self) -> Path:
        return Path(self.settings.scratch).expanduser()
