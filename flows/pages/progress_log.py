"""What a page is drawn of: what a working stage has told of itself, and what a finished one has made."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.artifact import Artifact
from tasks.config.recipe import Recipe
from tasks.context.progress import Progress


@dataclass
class ProgressLog:
    """What a stage has told of itself so far. Written by the stage's thread, read by another."""

    began: float = field(default_factory=time.monotonic)
    first: tuple[float, Progress] | None = None
    """The first progress of this run, and when it was heard: the speed is measured from here."""
    news: tuple[float, Progress] | None = None
    steps: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        """Take in how far the stage is; returns at once."""
        if progress.metrics:
            self.steps.append((progress.done, progress.metrics))
        self.news = time.monotonic(), progress  # last: it is what the other thread looks for
        self.first = self.first or self.news

    def percent(self) -> float:
        """Return how much of the stage is done, 0 to 100."""
        return 100 * self.news[1].done / self.news[1].total if self.news and self.news[1].total else 0.0


@dataclass(frozen=True)
class StageResult:
    """A finished stage: what it made, from what, and the recipe."""

    artifact: Artifact
    inputs: tuple[Artifact, ...]
    recipe: Recipe
