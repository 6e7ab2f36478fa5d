"""pretrain: tokens -> the student's checkpoint."""

import json

from lightgen_core.seeds import seed_of
from storage.artifact import Artifact
from storage.tables import about, read_table
from tasks.stage import Job, stage


@stage(version=1, reads=("seed", "pretrain", "tokens"), on_device=True)
def pretrain(job: Job, tokens: Artifact) -> None:
    """Write the student (raw and EMA weights, config) and `log.json`, the loss curve."""
    from lightgen_core.mar.student import new_student
    from lightgen_core.pretrained import save_student
    from lightgen_core.text_to_image import StudentInfo
    from lightgen_core.train.data import TokenSource
    from lightgen_core.train.pretrain import train

    asked, seed = job.recipe.pretrain, seed_of(job.recipe.seed, "pretrain")
    device = job.device()
    source = TokenSource(
        [job.local(tokens, name) for name in tokens.names("^tokens")],
        patch=job.recipe.tokens.patch,
        batch_size=asked.batch_size,
        seed=seed,
    )
    layout = about(read_table(tokens, tokens.names("^tokens")[0], ["id"]).schema)
    info = StudentInfo(
        codec=job.recipe.tokens.codec,
        text_encoder=job.recipe.tokens.text_encoder,
        max_words=job.recipe.tokens.max_words,
        patch=job.recipe.tokens.patch,
        channels=layout["channels"],
        latent_height=layout["height"],
        latent_width=layout["width"],
    )
    student = new_student(asked.model, asked.head, seed_of(job.recipe.seed, "student"))
    parameters = sum(weight.numel() for weight in student.parameters())
    job.say(
        "%.2f M parameters, %d images, %d steps of %d", parameters / 1e6, source.rows, asked.steps, asked.batch_size
    )
    result = train(
        student,
        source,
        asked,
        seed=seed,
        folder=job.scratch / "checkpoints",
        device=device,
        on_log=job.progress(asked.steps),
    )
    save_student(job.scratch / "student", student, result.ema, info.model_dump(mode="json"))
    job.add_folder(job.scratch / "student", "student/")
    job.write("log.json", json.dumps(result.rows, sort_keys=True).encode())
    job.counts = {"rows": source.rows, "steps": result.step, "parameters": parameters}
    job.figures = {"final_loss": result.rows[-1]["loss"]}
