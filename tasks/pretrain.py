"""pretrain: tokens, and which of them to keep -> the student's checkpoint."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightgen_core.config import MarConfig, TrainConfig
from lightgen_core.launch.job import NewStudent, SnapshotConfig, StudentCheckpoint, TrainingJob, TrainingSummary
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.progress import Preview
from tasks.pretrain_previews import PREVIEW_FILE, PhasePreviews, preview_table
from tasks.pretrain_validation import put_aside, validation_config
from tasks.stage import stage
from tasks.token_files import TEXT_FILES, token_files_regex
from tasks.token_shapes import default_layout, layout_of, token_shapes
from tasks.training import cpu_processes, init_checkpoint, kept_student, training_location
from tasks.training_weights import TrainingRows, rows_of, source_shares

DIVERGED_LOSS = 10.0
"""A last loss above it is of a student that has diverged: one that predicts zero has about 1 (ddpm, v) or 2 (flow)."""


@stage(version=7, config_sections=("seed", "pretrain", "tokens"), weights=init_checkpoint, on_device=True)
def pretrain(ctx: StageContext, tokens: Artifact, dedup: Artifact, *synthesis: Artifact) -> None:
    """Write the student (raw and EMA weights, config) and `log.json`, the loss curve over all phases.

    With `pretrain.previews` also `previews.parquet`, the same captions over the steps; with `pretrain.validation`, for
    which it reads `synthesis`, `validation.parquet`, the images put aside; with `pretrain.keep_steps` the averaged
    students of those steps, as `student-000400/`.
    """
    recipe = ctx.recipe
    ctx.log("phases of training: %d", len(recipe.phases))
    data = TrainingRows(tokens, dedup, put_aside(ctx, dedup, *synthesis) if recipe.pretrain.validation else None)
    on_log = ctx.progress(sum(config.steps for _, config in recipe.phases))
    student: NewStudent | StudentCheckpoint = NewStudent(
        mar=_student_config(recipe, tokens, dedup),
        head=recipe.pretrain.head,
        seed=derive_seed(recipe.seed, "student"),
        init_from=next(map(Path, init_checkpoint(recipe)), None),
    )
    projector: Path | None = None
    rows: list[dict[str, Any]] = []
    shares: list[dict[str, dict]] = []
    previews: list[Preview] = []
    for number in range(len(recipe.phases)):
        phase, done = _phase(ctx, data, student, projector, number), rows[-1]["step"] if rows else 0
        shares.append(_log_phase(ctx, data, phase, number))
        outcome, seen = _train(ctx, phase, number, done, on_log)
        previews += seen
        rows += [row | {"phase": number + 1, "step": done + row["step"]} for row in outcome.rows]
        student = StudentCheckpoint(folder=phase.location.output_dir, weights="raw")
        projector = phase.location.projector if recipe.pretrain.repa else None
    ctx.add_folder(phase.location.output_dir, "student/")
    if previews:
        ctx.write_table(PREVIEW_FILE, preview_table(previews))
    ctx.write("log.json", json.dumps(rows, sort_keys=True).encode())
    ctx.counts = {"rows": outcome.examples, "steps": rows[-1]["step"], "parameters": outcome.parameters}
    ctx.metrics = {"final_loss": rows[-1]["loss"]} | ({"source_shares": shares} if any(shares) else {})
    if data.held_out is not None:
        ctx.counts["held_out"] = len(data.held_out.ids)
        ctx.metrics["validation_loss"] = rows[-1]["validation_loss"]
    if warning := divergence(ctx.metrics):
        ctx.log("%s", warning)


def divergence(metrics: Mapping[str, Any]) -> str | None:
    """Return a warning if the metrics of this stage are of a student that has diverged, or None."""
    loss = metrics.get("final_loss")
    if loss is None or loss <= DIVERGED_LOSS:
        return None
    return f"the student has diverged, its last loss is {loss:.3g}: lower pretrain.optimizer.learning_rate"


def _log_phase(ctx: StageContext, data: TrainingRows, phase: TrainingJob, number: int) -> dict[str, dict]:
    """Log a phase's size and sources. Return the sources' shares by column and name."""
    ctx.log("phase %d: %s of %d", number + 1, pluralize(phase.config.steps, "step"), phase.config.batch_size)
    shares = source_shares(ctx, data, token_files_regex(ctx.recipe.phases[number][0]), number)
    for column, by_name in shares.items():
        ctx.log("%s: %s", column, ", ".join(f"{name} {share:.1%}" for name, share in by_name.items()))
    return shares


def _train(
    ctx: StageContext, phase: TrainingJob, number: int, done: int, on_log: Callable[[dict[str, Any]], None]
) -> tuple[TrainingSummary, list[Preview]]:
    """Train a phase, `done` steps after the first; add its kept students. Return the outcome and its previews."""
    from lightgen_core.launch.run import launch
    from lightgen_core.launch.snapshots import snapshot_folder

    seen = PhasePreviews(ctx.recipe, ctx.scratch / f"previews-{number + 1}", done, phase.config.steps)
    kept = [step - done for step in ctx.recipe.pretrain.keep_steps if done < step <= done + phase.config.steps]
    snapshots = SnapshotConfig(steps=kept, folder=ctx.scratch / f"kept-{number + 1}") if kept else None

    def log_step(row: dict[str, Any]) -> None:
        on_log(row | {"step": done + row["step"], "previews": seen.new()})

    job = phase.model_copy(update={"previews": seen.config, "snapshots": snapshots})
    outcome = launch(job, log_step, ctx.meter)
    for step in kept:
        ctx.add_folder(snapshot_folder(ctx.scratch / f"kept-{number + 1}", step), kept_student(done + step))
    return outcome, seen.all()


def _student_config(recipe: Recipe, tokens: Artifact, dedup: Artifact) -> MarConfig:
    """Return the student's configuration for these tokens; ValueError if the recipe's widths are others."""
    patch, layouts = recipe.tokens.patch, [shape.layout for shape in token_shapes(tokens, dedup, recipe.phases[0][0])]
    return recipe.pretrain.model.resolve(
        token_width=layouts[0]["channels"] * patch**2,
        text_width=layout_of(tokens, TEXT_FILES)["text_width"],
        position_grid=max(layout[side] for layout in layouts for side in ("height", "width")) // patch,
    )


def _phase(
    ctx: StageContext,
    data: TrainingRows,
    student: NewStudent | StudentCheckpoint,
    projector: Path | None,
    number: int,
) -> TrainingJob:
    """Return the job of a phase; a finished one only loads its last checkpoint.

    The first phase has the seed and the folder of a training without phases. projector: of the phase before, if any.
    """
    from lightgen_core.sampling.text_to_image import StudentInfo

    recipe, (size, config), (tokens, dedup, held_out) = ctx.recipe, ctx.recipe.phases[number], data
    suffix = [number + 1] if number else []
    shapes = token_shapes(tokens, dedup, size)
    for shape in shapes if recipe.tokens.buckets else ():
        ctx.log("%s: %s kept", shape.prefix, pluralize(shape.kept, "row"))
    layout = default_layout(shapes)
    info = StudentInfo(
        **recipe.tokens.model_dump(include=set(StudentInfo.model_fields)),
        channels=layout["channels"],
        latent_height=layout["height"],
        latent_width=layout["width"],
    )
    return TrainingJob(
        student=student,
        projector=projector,
        **rows_of(ctx, data, number),
        config=TrainConfig(**config.model_dump(include=set(TrainConfig.model_fields))),
        seed=derive_seed(recipe.seed, "pretrain", *suffix),
        info=info.model_dump(mode="json"),
        validation=validation_config(ctx, held_out),
        location=training_location(
            ctx, *suffix, processes=cpu_processes(ctx.settings, recipe.pretrain.model.width, config)
        ),
    )
