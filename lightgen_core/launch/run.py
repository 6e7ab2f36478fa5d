"""Run a training job: in this process, in several that torchrun starts, or on a Ray cluster."""

import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lightgen_core.config import DistilConfig, DpoConfig, ProjectorConfig, TrainConfig
from lightgen_core.data.batches import PairSource, TokenSource
from lightgen_core.data.held_out import HeldOutRows
from lightgen_core.data.token_file import kept_ids
from lightgen_core.device import pick_device
from lightgen_core.launch.job import NewStudent, RunLocation, StudentCheckpoint, TrainingJob, TrainingSummary
from lightgen_core.launch.ray_train import train_on_ray
from lightgen_core.launch.snapshots import snapshots_of
from lightgen_core.launch.torchrun import train_with_torchrun
from lightgen_core.metering.meter import Meter
from lightgen_core.model.aligned import AlignedStudent, align_student, projector_weights, student_weights
from lightgen_core.model.few_step import FewStepStudent, new_few_step_student
from lightgen_core.model.mar import Student, new_student
from lightgen_core.model.save import load_student, save_student
from lightgen_core.seeds import derive_seed
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.dpo import DpoCriterion
from lightgen_core.train.loop import RunContext, TrainResult, fit
from lightgen_core.train.parallel import DistributedState
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.validation import PART_ROWS, HeldOutLoss


def launch(
    job: TrainingJob, on_log: Callable[[dict], None] | None = None, meter: Meter | None = None
) -> TrainingSummary:
    """Train in this process, or in the `parallel.processes` that `location.launcher` starts.

    Started processes end with this one, however it ends, and a later call continues from their last checkpoint.
    on_log: receives each new row of the log with its timing and FLOPs, once.
    meter: of this process; each process that is started writes a record of its own into the job's folder.

    Raises:
        NonFiniteLossError, CheckpointError, DataError, StudentError, ValueError: as `train` does.
        LaunchError: a process died; the message ends with its last output.
        ClusterError: `ray` is to start them, and there is no Ray or no cluster.
    """
    meter = meter or Meter()
    if job.location.launcher == "ray":
        with meter.idle():
            return train_on_ray(job, train, on_log)
    if job.location.parallel.processes > 1:
        with meter.idle():
            return train_with_torchrun(job, on_log)
    return train(job, on_log, meter)


def train(
    job: TrainingJob, on_log: Callable[[dict], None] | None = None, meter: Meter | None = None
) -> TrainingSummary:
    """Train in this process, alone or as a rank of torch.distributed, and save the student.

    Continues an earlier run of the job. on_log: receives each new row of the log with its timing, on rank 0. Raises as
    `fit`, `load_student` and the sources.
    """
    config, location = job.config, job.location
    student, info = _student(job)
    model: Student | FewStepStudent = student
    data: dict[str, Any] = {"patch": info["patch"], "batch_size": config.batch_size, "seed": job.seed}
    data["scratch"] = location.workdir / "rows"
    device = _device(location)
    if meter is not None:
        meter.use(device)
    snapshots = snapshots_of(job, student, info, device)
    validation: HeldOutLoss | None = None
    source: PairSource | TokenSource
    criterion: DpoCriterion | MaskedDenoisingCriterion | DistilHeadCriterion
    if isinstance(config, DpoConfig):
        source = PairSource(job.files, **data)
        criterion = DpoCriterion.create(_student(job)[0], source, config)
    else:
        aligned = isinstance(config, TrainConfig) and config.repa is not None
        keep, weights = (None, None) if job.keep is None else kept_ids(job.keep)
        data |= {"keep": keep, "weights": weights, "caption_shares": job.caption_shares or None}
        source = TokenSource(job.files, texts=job.texts, features=aligned, **data)
        if isinstance(config, DistilConfig):
            model = new_few_step_student(student, config.head, derive_seed(job.seed, "head"))
            criterion = DistilHeadCriterion.create(student, source, config)
        else:
            criterion = MaskedDenoisingCriterion.create(student, source, config)
            validation = _validation(job, config, student, info["patch"])
            if config.repa is not None:
                model = _aligned(job, student, config.repa.resolve(student.mar.config, source.feature_channels))
    counted = student if isinstance(model, AlignedStudent) else model
    parameters = sum(weight.numel() for weight in counted.parameters())  # before any of them are sharded
    run = RunContext(job.seed, location.workdir, device, location.parallel, on_log, *snapshots, validation)
    result = fit(model, source, criterion, run)
    if DistributedState.current().rank == 0:
        _save(job, result, student, info)
    return TrainingSummary(
        step=result.step,
        stopped=result.stopped,
        rows=result.rows,
        examples=source.rows,
        parameters=parameters,
    )


def _save(job: TrainingJob, result: TrainResult, student: Student, info: dict[str, Any]) -> None:
    """Write the finished student; of a distillation the teacher, with the few-step student beside it."""
    folder, config = job.location.output_dir, job.config
    if isinstance(config, DistilConfig):
        with torch.device("meta"):
            few_step = FewStepStudent(student.mar.config, config.head)
        few_step.load_state_dict(result.ema, assign=True)
        assert isinstance(job.student, StudentCheckpoint), "a distillation starts from a student"
        raw, averaged = (load_student(job.student.folder, weights=weights)[0] for weights in ("raw", "ema"))
        save_student(folder, raw, averaged.state_dict(), info, few_step)
        return
    with torch.device("meta"):
        trained = Student(student.mar.config, student.head.config)  # the other one may be sharded
    trained.load_state_dict(student_weights(result.raw), assign=True)
    save_student(folder, trained, student_weights(result.ema), info)
    if projector := projector_weights(result.raw):
        save_file(projector, job.location.projector)


def _student(job: TrainingJob) -> tuple[Student, dict[str, Any]]:
    """Return the initial student and the `info` of its config.json."""
    if isinstance(job.student, NewStudent):
        fresh = new_student(job.student.mar, job.student.head, job.student.seed)
        if job.student.init_from is not None:
            fresh.load_state_dict(load_student(job.student.init_from, weights="ema")[0].state_dict())
        return fresh, job.info or {}
    student, info = load_student(job.student.folder, weights=job.student.weights)
    return student, info if job.info is None else job.info


def _aligned(job: TrainingJob, student: Student, projector: ProjectorConfig) -> AlignedStudent:
    """Return the student with a projector: a new one, or that of the phase before."""
    aligned = align_student(student, projector, derive_seed(job.seed, "projector"))
    if job.projector is not None:
        aligned.load_state_dict(student.state_dict() | load_file(job.projector))
    return aligned


def _validation(job: TrainingJob, config: TrainConfig, student: Student, patch: int) -> HeldOutLoss | None:
    """Return the loss on the rows that a job puts aside, or None."""
    if job.validation is None:
        return None
    rows = HeldOutRows(
        job.files,
        texts=job.texts,
        keep=kept_ids(job.validation.rows)[0],
        caption_shares=job.caption_shares or None,
        patch=patch,
        batch_size=PART_ROWS,
        seed=job.validation.seed,
        scratch=job.location.workdir / "rows",
    )
    return HeldOutLoss.create(student, rows, config, job.validation.every)


def _device(location: RunLocation) -> torch.device:
    """Return the device; of several processes on a machine with GPUs each takes its own."""
    local_rank, alone = int(os.environ.get("LOCAL_RANK", 0)), DistributedState.current().world_size == 1
    if not alone and location.device != "cpu" and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)  # before any tensor: each would take memory on the first GPU
    device = pick_device(location.device, location.threads)
    if device.type != "cuda" or alone:
        return device
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank + 1} of this machine has no GPU of its own ({torch.cuda.device_count()} found); "
            "start as many processes as there are GPUs, or set LIGHTGEN_DEVICE=cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
