"""What a run needs on its own machine's disk: locks against others there, and a folder for checkpoints."""

import hashlib
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from storage.artifact import PROGRESS, Artifact
from storage.lock import file_lock
from storage.store import Store
from tasks.config.settings import Settings


def in_use(store: Store, settings: Settings) -> AbstractContextManager[bool]:
    """Hold a store as each run on this machine does, for as long as it works, so that nobody deletes from it."""
    return file_lock(_lock_of(store, settings), shared=True)


def unused(store: Store, settings: Settings) -> AbstractContextManager[bool]:
    """Hold a store against the runs of this machine, to delete from it; tells whether none is at work."""
    return file_lock(_lock_of(store, settings), wait=False)


def _lock_of(store: Store, settings: Settings) -> Path:
    folder = store.local_path(".locks")
    if folder is not None:
        return folder / "in-use.lock"
    name = hashlib.sha256(store.uri.encode()).hexdigest()[:20]
    return Path(settings.scratch).expanduser() / ".locks" / f"in-use-{name}.lock"


@dataclass(frozen=True)
class Scratch:
    """The place of one artifact's maker: in a local store with the artifact itself, else below `settings.scratch`."""

    artifact: Artifact
    settings: Settings

    @property
    def folder(self) -> Path:
        """A folder that lives until the artifact is committed; it is made where there is none."""
        folder = self._beside_files or self._elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear(self) -> None:
        """Remove the folder; one in a local store goes with the artifact's other traces, when that is tidied up."""
        if self._beside_files is None and self._elsewhere.exists():
            shutil.rmtree(self._elsewhere)

    def lock(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the artifact against all that use the store, or for a remote one, all that share this scratch folder.

        Makers on other machines are not held: `storage.artifact` says how those get along.

        Args:
            wait: for as long as another process holds it.

        Returns:
            A context that tells whether it holds the artifact; without `wait` it may not.
        """
        root = self.artifact.store.local_path("") or self._root
        return file_lock(root / ".locks" / f"{self.artifact.stage}-{self.artifact.key}.lock", wait=wait)

    @property
    def _beside_files(self) -> Path | None:
        return self.artifact.store.local_path(f"{self.artifact.path}/{PROGRESS}/scratch")

    @property
    def _elsewhere(self) -> Path:
        return self._root / self.artifact.path

    @property
    def _root(self) -> Path:
        return Path(self.settings.scratch).expanduser()
