"""Data of a stage's page: progress while it runs, result when it is done."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.artifact import Artifact
from tasks.config.recipe import Recipe
from tasks.context.progress import Preview, Progress


@dataclass
class ProgressLog:
    """Progress of a stage so far. Written by the stage's thread, read by another."""

    started: float = field(default_factory=time.monotonic)
    first: tuple[float, Progress] | None = None
    """First progress of this run and its time, from which the speed is measured."""
    latest: tuple[float, Progress] | None = None
    previews: dict[tuple[int, str], Preview] = field(default_factory=dict)
    """Newest images of a training, by seed and caption."""
    steps: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        """Record the stage's progress; return at once."""
        if progress.metrics:
            self.steps.append((progress.done, progress.metrics))
        self.previews |= {(each.seed, each.caption): each for each in progress.previews}
        self.latest = time.monotonic(), progress  # last: it is what the other thread looks for
        self.first = self.first or self.latest

    def percent(self) -> float:
        """Return the finished part of the stage, 0 to 100."""
        return 100 * self.latest[1].done / self.latest[1].total if self.latest and self.latest[1].total else 0.0


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its artifact, inputs and recipe."""

    artifact: Artifact
    inputs: tuple[Artifact, ...]
    recipe: Recipe
