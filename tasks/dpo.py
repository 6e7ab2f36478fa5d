"""dpo: student and preference pairs -> the tuned student's checkpoint."""

import json

from lightgen_core.launch.job import StudentCheckpoint, TrainingJob
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.plural import pluralize
from tasks.context.context import Job
from tasks.stage import stage
from tasks.training import rows_of, training_location


@stage(version=2, reads=("seed", "dpo"), on_device=True)
def dpo(job: Job, pretrain: Artifact, pairs: Artifact) -> None:
    """Write the tuned student (raw and EMA weights, config) and `log.json`: accuracy, winner's and loser's error."""
    from lightgen_core.launch.run import launch

    asked = job.recipe.dpo
    told = pluralize(rows_of(pairs, "^pairs"), "pair"), pluralize(asked.steps, "step")
    job.say("%s, %s of %d", *told, asked.batch_size)
    training = TrainingJob(
        student=StudentCheckpoint(folder=job.local_folder(pretrain, "student/"), weights="ema"),
        files=tuple(job.local(pairs, name) for name in pairs.names("^pairs")),
        config=asked,
        seed=derive_seed(job.recipe.seed, "dpo"),
        location=training_location(job),
    )
    outcome = launch(training, on_log=job.progress(asked.steps))
    if outcome.stopped:
        job.say("stopped at step %d of %d: %s", outcome.step, asked.steps, outcome.stopped)
    job.add_folder(training.location.output_dir, "student/")
    job.write("log.json", json.dumps(outcome.rows, sort_keys=True).encode())
    job.counts = {"rows": outcome.examples, "steps": outcome.step}
    job.figures = {"stopped": outcome.stopped, "last": outcome.rows[-1] if outcome.rows else {}}
