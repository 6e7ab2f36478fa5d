"""Does a training job in this process: alone, or as one of those that torch.distributed connects."""

import os
from collections.abc import Callable
from typing import Any

import torch

from lightgen_core.config import DpoConfig
from lightgen_core.data.batches import PairSource, TokenSource
from lightgen_core.device import pick_device
from lightgen_core.launch.job import NewStudent, Outcome, Place, TrainingJob
from lightgen_core.model.save import load_student, save_student
from lightgen_core.model.student import Student, new_student
from lightgen_core.train.dpo import tune
from lightgen_core.train.loop import TrainResult
from lightgen_core.train.parallel import Ranks
from lightgen_core.train.pretrain import train


def run(job: TrainingJob, on_log: Callable[[dict], None] | None = None) -> Outcome:
    """Trains, going on where an earlier run of the job stopped, and writes the student to `job.place.output`.

    Args:
        on_log: called with each new row of the log and its timing, in the first process only.

    Raises:
        NonFiniteLossError, CheckpointError, DataError, StudentError, ValueError: see `fit`, `load_student`, sources.
    """
    config, place = job.config, job.place
    student, info = _student(job)
    parameters = sum(weight.numel() for weight in student.parameters())
    reading: dict = {"patch": info["patch"], "batch_size": config.batch_size, "seed": job.seed}
    reading["scratch"] = place.folder / "rows"
    fitting: dict = {"seed": job.seed, "folder": place.folder, "device": _device(place), "layout": place.layout}
    source: PairSource | TokenSource
    if isinstance(config, DpoConfig):
        reference, _ = _student(job)
        source = PairSource(job.files, **reading)
        result = tune(student, reference, source, config, **fitting, on_log=on_log)
    else:
        source = TokenSource(job.files, **reading)
        result = train(student, source, config, **fitting, on_log=on_log)
    if Ranks.here().rank == 0:
        save_student(place.output, _whole(student, result), result.ema, info)
    return Outcome(
        step=result.step, stopped=result.stopped, rows=result.rows, examples=source.rows, parameters=parameters
    )


def _student(job: TrainingJob) -> tuple[Student, dict[str, Any]]:
    """The student to start from and what its config.json is to tell."""
    if isinstance(job.student, NewStudent):
        fresh = new_student(job.student.mar, job.student.head, job.student.seed)
        if job.student.init_from is not None:
            fresh.load_state_dict(load_student(job.student.init_from, weights="ema")[0].state_dict())
        return fresh, job.info or {}
    student, info = load_student(job.student.folder, weights=job.student.weights)
    return student, info if job.info is None else job.info


def _whole(student: Student, result: TrainResult) -> Student:
    """The trained student in one piece, where it is sharded over processes."""
    with torch.device("meta"):
        joined = Student(student.mar.config, student.head.config)
    joined.load_state_dict(result.raw, assign=True)
    return joined


def _device(place: Place) -> torch.device:
    """The device; of several processes on a machine with GPUs each takes its own."""
    device = pick_device(place.device, place.threads)
    number = int(os.environ.get("LOCAL_RANK", 0))
    if device.type != "cuda" or Ranks.here().count == 1:
        return device
    if number >= torch.cuda.device_count():
        raise ValueError(
            f"process {number + 1} of this machine has no GPU of its own ({torch.cuda.device_count()} found); start as "
            "many processes as there are GPUs, or set LIGHTGEN_DEVICE=cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
