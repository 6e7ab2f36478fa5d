"""pretrain: tokens -> the student's checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightgen_core.seeds import seed_of
from lightgen_core.zoo.paths import ModelNotFound
from storage.artifact import Artifact
from storage.tables import about, read_table
from tasks.recipe import Recipe
from tasks.stage import Job, stage
from tasks.tokens import pattern_of

if TYPE_CHECKING:
    from lightgen_core.mar.student import Student
    from lightgen_core.train.loop import TrainResult


def start_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the folder that training starts from, if there is one, after a look at its configuration.

    Raises:
        ModelNotFound: no student there, or one of another shape than the recipe's.
    """
    start, wanted = recipe.pretrain.start, recipe.pretrain.model_dump(mode="json", include={"model", "head"})
    if start is None:
        return ()
    try:
        config = json.loads((Path(start) / "config.json").read_bytes())
        found = {"model": config["mar"], "head": config["head"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(f"pretrain.start: {start} holds no student; give a folder with its config.json") from error
    differing = [
        f"pretrain.{part}.{name} is {value}, the student has {found[part].get(name)}"
        for part, fields in wanted.items()
        for name, value in fields.items()
        if name != "dropout" and found[part].get(name) != value
    ]
    if differing:
        raise ModelNotFound(
            f"pretrain.start: the student in {start} is another than the recipe's: " + "; ".join(differing)
        )
    return (start,)


@stage(version=1, reads=("seed", "pretrain", "tokens"), weights=start_of, on_device=True)
def pretrain(job: Job, tokens: Artifact) -> None:
    """Write the student (raw and EMA weights, config) and `log.json`, the loss curve over all phases."""
    from lightgen_core.pretrained import save_student
    from lightgen_core.text_to_image import StudentInfo

    recipe = job.recipe
    student = _first_weights(recipe)
    parameters = sum(weight.numel() for weight in student.parameters())
    job.say("%.2f M parameters, %d phases of training", parameters / 1e6, len(recipe.phases))
    on_log = job.progress(sum(config.steps for _, config in recipe.phases))
    rows: list[dict[str, Any]] = []
    for number in range(len(recipe.phases)):
        done = rows[-1]["step"] if rows else 0
        result = _train_phase(job, tokens, student, number, _after(done, on_log))
        rows += [row | {"phase": number + 1, "step": done + row["step"]} for row in result.rows]
    size, _ = recipe.phases[-1]
    last = read_table(tokens, pattern_of(size), ["id"])
    layout = about(last.schema)
    info = StudentInfo(
        codec=recipe.tokens.codec,
        text_encoder=recipe.tokens.text_encoder,
        max_words=recipe.tokens.max_words,
        patch=recipe.tokens.patch,
        channels=layout["channels"],
        latent_height=layout["height"],
        latent_width=layout["width"],
    )
    save_student(job.scratch / "student", student, result.ema, info.model_dump(mode="json"))
    job.add_folder(job.scratch / "student", "student/")
    job.write("log.json", json.dumps(rows, sort_keys=True).encode())
    job.counts = {"rows": len(last), "steps": rows[-1]["step"], "parameters": parameters}
    job.figures = {"final_loss": rows[-1]["loss"]}


def _train_phase(
    job: Job, tokens: Artifact, student: "Student", number: int, on_log: Callable[[dict[str, Any]], None]
) -> "TrainResult":
    """Train the student in place through one phase; one that is finished only brings its last checkpoint back.

    The first phase has the seed and the folder of a training without phases.
    """
    from lightgen_core.train.data import TokenSource
    from lightgen_core.train.pretrain import train

    size, config = job.recipe.phases[number]
    own = [number + 1] if number else []
    seed = seed_of(job.recipe.seed, "pretrain", *own)
    source = TokenSource(
        [job.local(tokens, name) for name in tokens.names(pattern_of(size))],
        patch=job.recipe.tokens.patch,
        batch_size=config.batch_size,
        seed=seed,
        scratch=job.scratch / "rows",
    )
    job.say("phase %d: %d images, %d steps of %d", number + 1, source.rows, config.steps, config.batch_size)
    folder = job.scratch / "-".join(["checkpoints", *map(str, own)])
    return train(student, source, config, seed=seed, folder=folder, device=job.device(), on_log=on_log)


def _first_weights(recipe: Recipe) -> "Student":
    """Return the student before its first step: fresh, or with the weights that the recipe starts from."""
    from lightgen_core.mar.student import new_student
    from lightgen_core.pretrained import load_student

    student = new_student(recipe.pretrain.model, recipe.pretrain.head, seed_of(recipe.seed, "student"))
    for start in start_of(recipe):
        student.load_state_dict(load_student(Path(start), weights="ema")[0].state_dict())
    return student


def _after(done: int, on_log: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return a callback that counts the steps of earlier phases too."""
    return lambda row: on_log(row | {"step": done + row["step"]})
