"""Where a stage trains: its checkpoints, its student, its processes."""

import re

from lightgen_core.launch.job import Place
from storage.artifact import Artifact
from tasks.context.context import StageContext


def training_location(ctx: StageContext, *phase: int) -> Place:
    """Return the scratch folders and the settings of a stage that trains, or of a later phase of it."""
    layout = ctx.settings.train
    return Place(
        folder=ctx.scratch / "-".join(["checkpoints", *map(str, phase)]),
        output=ctx.scratch / "-".join(["student", *map(str, phase)]),
        device=ctx.settings.device,
        threads=max(1, ctx.settings.threads // layout.processes),
        layout=layout,
        launcher="ray" if ctx.settings.engine == "ray" else "torchrun",
    )


def count_rows(artifact: Artifact, pattern: str) -> int:
    """Return how many rows the files of an artifact hold whose names match."""
    return sum(file.rows for file in artifact.manifest().files if re.search(pattern, file.name))
