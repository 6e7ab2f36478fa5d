"""When the making of an artifact began, and how long it has taken, over all runs that had a part in it."""

import datetime
import json
import time
from dataclasses import dataclass, field
from typing import Any

from storage.artifact import PROGRESS, Artifact


@dataclass
class Clock:
    """Runs from when it is built. What it shows is kept beside an unfinished artifact's records, and goes with them."""

    artifact: Artifact
    _started: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        """Where in the store it is kept."""
        return f"{self.artifact.path}/{PROGRESS}/clock.json"

    def keep(self) -> None:
        """Write down what it shows, and go on from there."""
        now, kept = time.monotonic(), self._kept()
        began = kept.get("began") or datetime.datetime.now(datetime.UTC).isoformat()
        shown = {"began": began, "seconds": kept.get("seconds", 0.0) + now - self._started}
        self.artifact.store.write(self.path, json.dumps(shown).encode())
        self._started = now

    def seconds(self) -> float:
        """Return the wall-clock seconds of this making and of the interrupted ones before it, where kept."""
        return self._kept().get("seconds", 0.0) + time.monotonic() - self._started

    def began(self) -> datetime.datetime | None:
        """Return when the making began that is still unfinished, be it in an earlier run; None: none has."""
        began = self._kept().get("began")
        return datetime.datetime.fromisoformat(began) if began else None

    def _kept(self) -> dict[str, Any]:
        try:
            return json.loads(self.artifact.store.read(self.path))
        except FileNotFoundError:
            return {}
