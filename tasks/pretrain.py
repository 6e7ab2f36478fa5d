"""pretrain: tokens -> the student's checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightgen_core.config import TrainConfig
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.launch.job import NewStudent, StudentCheckpoint, TrainingJob
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import layout_metadata, read_table
from tasks.config.recipe import Recipe
from tasks.context.context import Job
from tasks.stage import stage
from tasks.tokens import pattern_of
from tasks.training import training_location


def start_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the folder that training starts from, if there is one, after a look at its configuration.

    Raises:
        ModelNotFound: no student there, or one of another shape than the recipe's.
    """
    start, wanted = recipe.pretrain.init_from, recipe.pretrain.model_dump(mode="json", include={"model", "head"})
    if start is None:
        return ()
    try:
        config = json.loads((Path(start) / "config.json").read_bytes())
        found = {"model": config["mar"], "head": config["head"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(
            f"pretrain.init_from: {start} holds no student; give a folder with its config.json"
        ) from error
    differing = [
        f"pretrain.{part}.{name} is {value}, the student has {found[part].get(name)}"
        for part, fields in wanted.items()
        for name, value in fields.items()
        if name != "dropout" and found[part].get(name) != value
    ]
    if differing:
        raise ModelNotFound(
            f"pretrain.init_from: the student in {start} is another than the recipe's: " + "; ".join(differing)
        )
    return (start,)


@stage(version=3, reads=("seed", "pretrain", "tokens"), weights=start_of, on_device=True)
def pretrain(job: Job, tokens: Artifact) -> None:
    """Write the student (raw and EMA weights, config) and `log.json`, the loss curve over all phases."""
    from lightgen_core.launch.run import launch

    recipe = job.recipe
    job.say("phases of training: %d", len(recipe.phases))
    on_log = job.progress(sum(config.steps for _, config in recipe.phases))
    student: NewStudent | StudentCheckpoint = NewStudent(
        mar=recipe.pretrain.model,
        head=recipe.pretrain.head,
        seed=derive_seed(recipe.seed, "student"),
        init_from=next(map(Path, start_of(recipe)), None),
    )
    rows: list[dict[str, Any]] = []
    for number in range(len(recipe.phases)):
        done = rows[-1]["step"] if rows else 0
        phase = _phase(job, tokens, student, number)
        job.say("phase %d: %s of %d", number + 1, pluralize(phase.config.steps, "step"), phase.config.batch_size)
        outcome = launch(phase, _after(done, on_log))
        rows += [row | {"phase": number + 1, "step": done + row["step"]} for row in outcome.rows]
        student = StudentCheckpoint(folder=phase.location.output_dir, weights="raw")
    job.add_folder(phase.location.output_dir, "student/")
    job.write("log.json", json.dumps(rows, sort_keys=True).encode())
    job.counts = {"rows": outcome.examples, "steps": rows[-1]["step"], "parameters": outcome.parameters}
    job.figures = {"final_loss": rows[-1]["loss"]}


def _phase(job: Job, tokens: Artifact, student: NewStudent | StudentCheckpoint, number: int) -> TrainingJob:
    """Return a phase's training in words; one that is finished only brings its last checkpoint back.

    The first phase has the seed and the folder of a training without phases.
    """
    from lightgen_core.sampling.text_to_image import StudentInfo

    recipe, (size, config) = job.recipe, job.recipe.phases[number]
    files, own = tokens.names(pattern_of(size)), [number + 1] if number else []
    layout = layout_metadata(read_table(tokens, files[0], ["id"]).schema)
    components = (
        "codec",
        "codec_precision",
        "text_encoder",
        "text_precision",
        "text_layer",
        "max_text_tokens",
        "patch",
    )
    info = StudentInfo(
        **recipe.tokens.model_dump(include=set(components)),
        channels=layout["channels"],
        latent_height=layout["height"],
        latent_width=layout["width"],
    )
    return TrainingJob(
        student=student,
        files=tuple(job.local(tokens, name) for name in files),
        config=TrainConfig(**config.model_dump(include=set(TrainConfig.model_fields))),
        seed=derive_seed(recipe.seed, "pretrain", *own),
        info=info.model_dump(mode="json"),
        location=training_location(job, *own),
    )


def _after(done: int, on_log: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return a callback that counts the steps of earlier phases too."""
    return lambda row: on_log(row | {"step": done + row["step"]})
