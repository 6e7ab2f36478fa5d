"""A training job: everything a process needs to take part. Torch-free, and JSON on disk."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lightgen_core.config import (
    DistilConfig,
    DpoConfig,
    HeadConfig,
    MarConfig,
    ParallelConfig,
    Positive,
    Section,
    TrainConfig,
)

OUTCOME = "outcome.json"
"""File in a job's folder that its first process writes at the end."""
COST = "cost"
"""Folder in a job's folder of what each of its processes spends (`lightgen_core/metering/meter.py`)."""


class NewStudent(Section):
    """A student of given sizes, with fresh weights or those of another one."""

    mar: MarConfig = Field(description="its transformer")
    head: HeadConfig = Field(description="its head")
    seed: int = Field(description="of its weights")
    init_from: Path | None = Field(None, description="folder of a student of these sizes, for its averaged weights")


class StudentCheckpoint(Section):
    """A student to continue training from."""

    folder: Path = Field(description="folder that `save_student` wrote")
    weights: Literal["raw", "ema"] = Field("ema", description="which of its weights")


class RunLocation(Section):
    """Location and processes of a run; they do not change its result."""

    workdir: Path = Field(description="checkpoints, timings and outcome of this run only")
    output_dir: Path = Field(description="folder of the finished student")
    device: str = Field("auto", description="auto, cpu, cuda ...; of several processes each takes a GPU of its own")
    threads: Positive = Field(1, description="CPU threads of a process")
    parallel: ParallelConfig = Field(default_factory=ParallelConfig, description="processes, micro-batches and so on")
    attempt: str = Field("", description="id of the launcher's record of cost, which those of its processes name")
    launcher: Literal["torchrun", "ray"] = Field(
        "torchrun", description="torchrun: processes on this machine; ray: on the machines of a Ray cluster"
    )

    @property
    def projector(self) -> Path:
        """File of the projector that a run with an alignment ends with, for the phase behind it."""
        return self.workdir / "projector.safetensors"


class PreviewConfig(Section):
    """Captions to sample while a student trains; they do not change its result."""

    steps: tuple[Positive, ...] = Field(description="steps of the job after which they are sampled")
    captions: tuple[str, ...] = Field(description="captions that training does not see")
    seeds: tuple[int, ...] = Field(description="seed of each caption's image")
    folder: Path = Field(description="folder of the images, a file for each step")


class ValidationConfig(Section):
    """Rows put aside, on which the averaged weights' loss is measured; it does not change the training's result."""

    rows: Path = Field(description="Parquet file as `keep`, of the rows that training does not see")
    every: Positive = Field(description="steps between two measurements, a multiple of log_every")
    seed: int = Field(description="of masks, times and noise, the same at every measurement")


class SnapshotConfig(Section):
    """Students to save while training goes on."""

    steps: tuple[Positive, ...] = Field(description="steps of the job after which the student is saved")
    folder: Path = Field(description="folder of the students, each in a folder of its step")


class TrainingJob(Section):
    """A training run: student, data, configuration (of pre-training, DPO or distillation) and location."""

    student: NewStudent | StudentCheckpoint = Field(
        description="what training starts from; for DPO also the reference, for distillation the teacher"
    )
    files: tuple[Path, ...] = Field(description="Parquet files of tokens or of pairs, in the order that numbers rows")
    texts: tuple[Path, ...] = Field((), description="Parquet files of the rows' text; none: each row holds its own")
    keep: Path | None = Field(
        None, description="Parquet file that says by id which rows to train on, and maybe their weight; none: all"
    )
    caption_shares: dict[str, float] = Field(
        {}, description="share of the rows of a batch by column of ids of texts; none: all with that of `caption_id`"
    )
    config: TrainConfig | DpoConfig | DistilConfig = Field(description="pre-training, DPO, or distillation")
    seed: int = Field(description="of the order of rows and of all step noise")
    info: dict[str, Any] | None = Field(
        None, description="contents of the student's config.json beside its sizes, `patch` at least; none: as saved"
    )
    projector: Path | None = Field(
        None, description="file of the projector that an alignment goes on with; none: a new one"
    )
    previews: PreviewConfig | None = Field(None, description="captions to sample meanwhile; none: no previews")
    validation: ValidationConfig | None = Field(None, description="held-out rows of pre-training; none: no such loss")
    snapshots: SnapshotConfig | None = Field(None, description="students to save meanwhile; none: the last one only")
    location: RunLocation = Field(description="folders, device, processes")


class TrainingSummary(Section):
    """Result of a run; the student is in the job's output folder."""

    step: int = Field(description="updates in the weights")
    stopped: str | None = Field(description="why it ended before its last step")
    rows: list[dict] = Field(description="the log")
    examples: int = Field(description="rows of the training set")
    parameters: int = Field(description="weights that were trained")
