"""Start and elapsed time of an artifact, summed over all runs that worked on it."""

import datetime
import json
import time
from dataclasses import dataclass, field
from typing import Any

from storage.artifact import PROGRESS, Artifact


@dataclass
class ElapsedTime:
    """A timer that starts when it is built; its value is stored with an unfinished artifact's records."""

    artifact: Artifact
    _started: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """Path in the store of the saved value."""
        return f"{self.artifact.path}/{PROGRESS}/clock.json"

    def save(self) -> None:
        """Save the elapsed time so far, and continue from there."""
        now, saved = time.monotonic(), self._load()
        started_at = saved.get("began") or datetime.datetime.now(datetime.UTC).isoformat()
        value = {"began": started_at, "seconds": saved.get("seconds", 0.0) + now - self._started}
        self.artifact.store.write(self.path, json.dumps(value).encode())
        self._started = now

    def seconds(self) -> float:
        """Return the wall-clock seconds of this run and of the interrupted ones before it."""
        return self._load().get("seconds", 0.0) + time.monotonic() - self._started

    def started_at(self) -> str | None:
        """Return the ISO 8601 time at which the first run on the unfinished artifact began; None if none has."""
        return self._load().get("began")

    def _load(self) -> dict[str, Any]:
        try:
            return json.loads(self.artifact.store.read(self.path))
        except FileNotFoundError:
            return {}
