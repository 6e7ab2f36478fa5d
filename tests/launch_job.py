"""Launches a training job and prints its log's steps: `python launch_job.py JOB.json`; something a test can kill."""

import sys
from pathlib import Path

from lightgen_core.train.job import TrainingJob
from lightgen_core.train.launch import execute

if __name__ == "__main__":
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_bytes())
    execute(job, on_log=lambda row: print(row["step"], flush=True))
