"""The location of a training, its input rows, and the student that it starts from."""

import json
import re
from pathlib import Path

from lightgen_core.config import UpdatesConfig
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.launch.job import RunLocation
from storage.artifact import Artifact
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.context import StageContext

SMALL_WIDTH = 256
"""Width of a student up to which threads of a CPU wait for each other longer than they work."""
WORTHWHILE_IMAGES = 50_000
"""Images of a training from which starting more processes, ten seconds, pays."""
MOST_PROCESSES = 4
"""Processes that are started unasked: each holds torch and the data's index, a gigabyte."""


def cpu_processes(settings: Settings, width: int, config: UpdatesConfig) -> int:
    """Return the processes of a training: as set, or left out one for each thread of a CPU where the student is small.

    Two processes of one thread train a tiny student at twice the speed of one with two threads (docs/performance.md).
    """
    asked = settings.train.processes
    images = config.steps * config.batch_size
    if "processes" in settings.train.model_fields_set or settings.engine == "ray" or settings.train.parallel != "ddp":
        return asked
    if width > SMALL_WIDTH or images < WORTHWHILE_IMAGES or not _is_cpu(settings.device):
        return asked
    most = min(settings.threads, MOST_PROCESSES)
    return next(count for count in range(most, 0, -1) if config.batch_size % count == 0)


def _is_cpu(device: str) -> bool:
    from lightgen_core.device import pick_device

    return pick_device(device, threads=1).type == "cpu"


def training_location(ctx: StageContext, *phase: int, processes: int | None = None) -> RunLocation:
    """Return folders and settings of a training stage, or of one of its later phases; processes: none: as set."""
    parallel = ctx.settings.train
    if processes is not None:
        parallel = parallel.model_copy(update={"processes": processes})
    return RunLocation(
        workdir=ctx.scratch / "-".join(["checkpoints", *map(str, phase)]),
        output_dir=ctx.scratch / "-".join(["student", *map(str, phase)]),
        device=ctx.settings.device,
        threads=max(1, ctx.settings.threads // parallel.processes),
        parallel=parallel,
        attempt=ctx.meter.id,
        launcher="ray" if ctx.settings.engine == "ray" else "torchrun",
    )


def kept_student(step: int) -> str:
    """Return the folder of `pretrain`, with a slash, that holds the student kept after a step of all phases."""
    return f"student-{step:06d}/"


def count_rows(artifact: Artifact, pattern: str) -> int:
    """Return the number of rows in an artifact's files whose names match."""
    return sum(file.rows for file in artifact.manifest().files if re.search(pattern, file.name))


def init_checkpoint(recipe: Recipe) -> tuple[str, ...]:
    """Return the folder that training starts from, if any, after a check of its configuration.

    Raises:
        ModelNotFound: it holds no student, or one of another shape than the recipe's.
    """
    start, expected = recipe.pretrain.init_from, recipe.pretrain.model_dump(mode="json", include={"model", "head"})
    if start is None:
        return ()
    try:
        config = json.loads((Path(start) / "config.json").read_bytes())
        actual = {"model": config["mar"], "head": config["head"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(
            f"pretrain.init_from: {start} holds no student; give a folder with its config.json"
        ) from error
    differing = [
        f"pretrain.{part}.{name} is {value}, the student has {actual[part].get(name)}"
        for part, fields in expected.items()
        for name, value in fields.items()
        if name not in ("dropout", "preset") and value is not None and actual[part].get(name) != value
    ]
    if differing:
        differences = "; ".join(differing)
        raise ModelNotFound(f"pretrain.init_from: the student in {start} is another than the recipe's: {differences}")
    return (start,)
