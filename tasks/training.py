"""The location of a training, its input rows, and the student that it starts from."""

import json
import re
from pathlib import Path

from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.launch.job import RunLocation
from storage.artifact import Artifact
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext


def training_location(ctx: StageContext, *phase: int) -> RunLocation:
    """Return folders and settings of a training stage, or of one of its later phases."""
    parallel = ctx.settings.train
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
