"""Where a stage trains: its checkpoints, its student, its processes."""

import re

from lightgen_core.launch.job import RunLocation
from storage.artifact import Artifact
from tasks.context.context import Job


def training_location(job: Job, *phase: int) -> RunLocation:
    """Return the scratch folders and the settings of a stage that trains, or of a later phase of it."""
    parallel = job.settings.train
    return RunLocation(
        workdir=job.scratch / "-".join(["checkpoints", *map(str, phase)]),
        output_dir=job.scratch / "-".join(["student", *map(str, phase)]),
        device=job.settings.device,
        threads=max(1, job.settings.threads // parallel.processes),
        parallel=parallel,
        launcher="ray" if job.settings.engine == "ray" else "torchrun",
    )


def rows_of(artifact: Artifact, pattern: str) -> int:
    """Return how many rows the files of an artifact hold whose names match."""
    return sum(file.rows for file in artifact.manifest().files if re.search(pattern, file.name))
