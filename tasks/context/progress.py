"""How far a stage is: what its body tells, and whoever watches the run hears."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """A moment in the making of an artifact."""

    done: int
    """Pieces that are finished, those of earlier runs included."""
    total: int
    unit: str
    """What is counted: shards, steps."""
    seconds_left: float | None = None
    """Estimated from this run's own speed; None where nothing is known yet."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured at this step of a training: loss, learning rate and so on."""
    rows: int | None = None
    """Rows of the finished pieces; None where pieces are not made of rows."""


Watch = Callable[[Progress], None]
"""Is called from the stage's own loop, so it must return at once; what takes time belongs in a thread."""


def nobody(progress: Progress) -> None:
    """Watch nothing."""


def each_of(*watches: Watch) -> Watch:
    """Return a watch that tells several."""

    def tell(progress: Progress) -> None:
        for watch in watches:
            watch(progress)

    return tell
