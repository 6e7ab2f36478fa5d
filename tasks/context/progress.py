"""Progress of a running stage, and the callback that receives it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from storage.plural import pluralize

LOADING_SECONDS = 60.0
"""Most that a worker takes to load its models; where the first shards took longer, they tell the pace."""


@dataclass(frozen=True)
class Preview:
    """Image of a caption, PNG, by the student after a step of its training."""

    step: int
    caption: str
    seed: int
    png: bytes


@dataclass(frozen=True)
class Progress:
    """State of a running stage at one moment."""

    done: int
    """Finished units, those of earlier runs included."""
    total: int
    unit: str
    """Name of the counted unit: shards, steps."""
    seconds_left: float | None = None
    """Estimate from this run's own speed; None if nothing is known yet."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Training metrics of this step: loss, learning rate and so on."""
    rows: int | None = None
    """Rows of the finished units; None if units have no rows."""
    previews: tuple[Preview, ...] = ()
    """Images sampled since the progress before."""


ProgressCallback = Callable[[Progress], None]
"""Called from the stage's own loop, so it must return at once; slow work belongs in a thread."""


def ignore_progress(progress: Progress) -> None:
    """Do nothing."""


def duration_in_words(seconds: float) -> str:
    """Return a time span in words: 45 seconds, 28 minutes, 1 hour and 58 minutes, 3 days and 2 hours."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return pluralize(max(1, round(seconds)), "second")
    if minutes < 60:
        return pluralize(minutes, "minute")
    if hours >= 30 * 24:
        return pluralize(round(hours / 24), "day")
    counts, units = (divmod(minutes, 60), ("hour", "minute")) if hours < 24 else (divmod(hours, 24), ("day", "hour"))
    return " and ".join(pluralize(count, unit) for count, unit in zip(counts, units, strict=True) if count)


class TimeLeft:
    """Seconds that a run of shards still takes, from its pace once all workers have loaded their models."""

    def __init__(self, total: int, workers: int = 1) -> None:
        self._total, self._workers = total, workers
        self._started = self._loaded = time.monotonic()

    def after(self, done: int) -> float | None:
        """Return the seconds left after `done` shards of this run, or None while loading hides the pace."""
        now = time.monotonic()
        if done == self._total:
            return 0.0
        if done > self._workers:
            return (now - self._loaded) / (done - self._workers) * (self._total - done)
        self._loaded = now
        elapsed = now - self._started
        return elapsed / done * (self._total - done) if elapsed > LOADING_SECONDS else None
