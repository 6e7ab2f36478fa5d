"""Progress of a running stage, and the callback that receives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


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


ProgressCallback = Callable[[Progress], None]
"""Called from the stage's own loop, so it must return at once; slow work belongs in a thread."""


def ignore_progress(progress: Progress) -> None:
    """Do nothing."""
