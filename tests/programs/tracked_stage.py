"""A stage that says what a training says, shown by trackers: `python tracked_stage.py STORE FIRST LAST [kill]`.

It logs the steps FIRST to LAST and then ends, or kills itself.
"""

import os
import signal
import sys
from pathlib import Path

from flows.load import load_recipe
from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.stage import Stage, stage
from tasks.tracking.report import track_stage

RECIPE = load_recipe("smoke")


def pretrain_stage(first: int, last: int, *, kill: bool = False) -> Stage:
    """A stage named `pretrain` that logs a loss of 1 / step in the first attempt, and as much and 10 in a later one."""

    @stage(version=1, config_sections=("seed", "dedup"))
    def pretrain(ctx: StageContext) -> None:
        log = ctx.progress(last)
        for step in range(first, last + 1):
            log({"step": step, "loss": 1 / step + (10 if first > 1 else 0), "seconds": 0.5, "images_per_second": 32.0})
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.write("student", b"weights")

    return pretrain


def make(store: Path, what: Stage, settings: Settings | None = None, recipe: Recipe = RECIPE) -> Artifact:
    """Make the stage's artifact as the flow does."""
    settings = settings or Settings()
    artifact = what.artifact(recipe, open_store(str(store)), ())
    with track_stage(recipe, settings, what, artifact) as on_progress:
        what.run(recipe, settings, (), artifact, on_progress=on_progress)
    return artifact


if __name__ == "__main__":
    make(Path(sys.argv[1]), pretrain_stage(int(sys.argv[2]), int(sys.argv[3]), kill="kill" in sys.argv))
