"""What a maker needs on its own machine's disk: a lock against other makers there, and a folder for its checkpoints."""

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from storage.artifact import PROGRESS, Artifact
from storage.lock import file_lock
from tasks.settings import Settings


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
