"""dpo: student and preference pairs -> the tuned student's checkpoint."""

import json

from lightgen_core.launch.job import StudentCheckpoint, TrainingJob
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from tasks.context.context import StageContext
from tasks.stage import stage
from tasks.training import count_rows, training_location


@stage(version=4, config_sections=("seed", "dpo"), on_device=True)
def dpo(ctx: StageContext, student: Artifact, pairs: Artifact) -> None:
    """Write the tuned student (raw and EMA weights, config) and `log.json`: accuracy, winner's and loser's error."""
    from lightgen_core.launch.run import launch

    config, rows, watched = ctx.recipe.dpo, count_rows(pairs, "^pairs"), pairs.manifest().metrics
    if stopped := watched["stopped"] or (None if rows else "there is no pair to learn from"):
        _keep_student(ctx, student, stopped)
        ctx.metrics["first_round"] = watched["first_round"]
        return
    ctx.log("%s, %s of %d", pluralize(rows, "pair"), pluralize(config.steps, "step"), config.batch_size)
    training = TrainingJob(
        student=StudentCheckpoint(folder=ctx.local_folder(student, "student/"), weights="ema"),
        files=tuple(ctx.local(pairs, name) for name in pairs.names("^pairs")),
        config=config,
        seed=derive_seed(ctx.recipe.seed, "dpo"),
        location=training_location(ctx),
    )
    outcome = launch(training, ctx.progress(config.steps), ctx.meter)
    if outcome.stopped:
        ctx.log("stopped at step %d of %d: %s", outcome.step, config.steps, outcome.stopped)
    ctx.add_folder(training.location.output_dir, "student/")
    ctx.write("log.json", json.dumps(outcome.rows, sort_keys=True).encode())
    ctx.counts = {"rows": outcome.examples, "steps": outcome.step}
    last = outcome.rows[-1] if outcome.rows else {}
    ctx.metrics = {"stopped": outcome.stopped, "last": last, "first_round": watched["first_round"]}


def _keep_student(ctx: StageContext, student: Artifact, reason: str) -> None:
    """Write the student as it is."""
    ctx.log("%s; the student stays as it is", reason)
    ctx.add_folder(ctx.local_folder(student, "student/"), "student/")
    ctx.write("log.json", b"[]")
    ctx.counts = {"rows": 0, "steps": 0}
    ctx.metrics = {"stopped": reason, "last": {}}
