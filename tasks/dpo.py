"""dpo: student and preference pairs -> the tuned student's checkpoint."""

import json

from lightgen_core.seeds import seed_of
from storage.artifact import Artifact
from tasks.stage import Job, stage


@stage(version=1, reads=("seed", "dpo"), on_device=True)
def dpo(job: Job, pretrain: Artifact, pairs: Artifact) -> None:
    """Write the tuned student (raw and EMA weights, config) and `log.json`: accuracy, winner's and loser's error."""
    from lightgen_core.dpo import tune
    from lightgen_core.pretrained import load_student, save_student
    from lightgen_core.train.data import PairSource

    asked, seed = job.recipe.dpo, seed_of(job.recipe.seed, "dpo")
    device = job.device()
    folder = job.local_folder(pretrain, "student/")
    policy, info = load_student(folder, weights="ema", device=device)
    reference, _ = load_student(folder, weights="ema", device=device)
    source = PairSource(
        [job.local(pairs, name) for name in pairs.names("^pairs")],
        patch=info["patch"],
        batch_size=asked.batch_size,
        seed=seed,
        scratch=job.scratch / "rows",
    )
    job.say("%d pairs, %d steps of %d", source.rows, asked.steps, asked.batch_size)
    result = tune(
        policy,
        reference,
        source,
        asked,
        seed=seed,
        folder=job.scratch / "checkpoints",
        device=device,
        on_log=job.progress(asked.steps),
    )
    if result.stopped:
        job.say("stopped at step %d of %d: %s", result.step, asked.steps, result.stopped)
    save_student(job.scratch / "student", policy, result.ema, info)
    job.add_folder(job.scratch / "student", "student/")
    job.write("log.json", json.dumps(result.rows, sort_keys=True).encode())
    job.counts = {"rows": source.rows, "steps": result.step}
    job.figures = {"stopped": result.stopped, "last": result.rows[-1] if result.rows else {}}
