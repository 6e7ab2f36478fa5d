"""The location of a training: checkpoints, student, device, processes."""

import re

from lightgen_core.launch.job import Place
from storage.artifact import Artifact
from tasks.context.context import StageContext


def training_location(ctx: StageContext, *phase: int) -> Place:
    """Return folders and settings of a training stage, or of one of its later phases."""
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
    """Return the number of rows in an artifact's files whose names match."""
    return sum(file.rows for file in artifact.manifest().files if re.search(pattern, file.name))
