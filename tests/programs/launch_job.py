"""Tiny training jobs; as a program launches one and prints its log's steps: `python launch_job.py JOB.json`."""

import sys
from pathlib import Path

from lightgen_core.config import ParallelConfig
from lightgen_core.launch.job import NewStudent, RunLocation, TrainingJob
from lightgen_core.launch.run import launch
from tests.factories.tiny_student import PATCH, tiny_student, tiny_training

STEPS, HALF, LAST = 60, "step-00000030", "step-00000060"


def job_in(folder, processes, launcher="torchrun", **changes):
    """A tiny pre-training below a folder, on tokens in it or beside it."""
    given = next(path for path in (folder / "tokens.parquet", folder.parent / "tokens.parquet") if path.exists())
    student = tiny_student()
    return TrainingJob(
        student=NewStudent(mar=student.mar.config, head=student.head.config, seed=0),
        files=(given,),
        config=tiny_training(**({"steps": STEPS} | changes)),
        seed=7,
        info={"patch": PATCH},
        location=RunLocation(
            workdir=folder / "run",
            output_dir=folder / "student",
            device="cpu",
            parallel=ParallelConfig(processes=processes),
            launcher=launcher,
        ),
    )


if __name__ == "__main__":
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_bytes())
    launch(job, on_log=lambda row: print(row["step"], flush=True))
