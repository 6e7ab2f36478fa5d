"""Trains tiny students as one of two processes: `python train_as_rank.py FOLDER RANK`, once for each rank."""

import copy
import json
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from lightgen_core.config import (
    DistilConfig,
    DpoConfig,
    DpoOptimizerConfig,
    FewStepConfig,
    MaskConfig,
    OptimizerConfig,
    ParallelConfig,
    RepaConfig,
)
from lightgen_core.data.batches import PairSource, TokenSource
from lightgen_core.data.held_out import HeldOutRows
from lightgen_core.model.few_step import new_few_step_student
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.loop import RunContext, TrainResult, fit
from lightgen_core.train.train_step import NonFiniteLossError
from lightgen_core.train.validation import HeldOutLoss
from tests.factories.tiny_sampling import settings
from tests.factories.tiny_student import PATCH, aligned_student, tiny_student, tiny_training, train

CPU = torch.device("cpu")
OBJECTIVES = ("ddpm", "v", "flow")
KINDS = (*OBJECTIVES, "dpo", "muon", "buckets", "aligned", "distilled")
SHARDED = ("ddpm", "dpo", "aligned", "distilled")
DDP, FSDP = ParallelConfig(parallel="ddp"), ParallelConfig(parallel="fsdp")
FRUGAL = ParallelConfig(parallel="fsdp", micro_batch=1, activation_checkpointing=True, compile=True)
DPO = DpoConfig(
    steps=6,
    batch_size=4,
    optimizer=DpoOptimizerConfig(learning_rate=3e-3, warmup_steps=0),
    noise_samples_per_token=2,
    mask=MaskConfig(distribution="uniform", min_ratio=0.0),
    precision="fp32",
    log_every=1,
    checkpoint_every=3,
    beta=20.0,
    displacement_guard="both",
    tolerance=1e9,
)


class Interrupted(Exception):
    """Stands for a kill that ends all processes at once."""


class UntilStep:
    """A source that ends the run before a step, in every process."""

    def __init__(self, source, step):
        self._source, self._last = source, step

    def __getattr__(self, name):
        return getattr(self._source, name)

    def batch(self, step, start=0, stop=None):
        if step == self._last:
            raise Interrupted
        return self._source.batch(step, start, stop)


def fitted(
    data: Path,
    folder: Path,
    kind: str,
    layout: ParallelConfig,
    dropout: float = 0.1,
    until: int = 99,
    validate: bool = False,
    device: torch.device = CPU,
) -> TrainResult:
    """Trains on the tokens, pairs or buckets in the folder `data`; the run ends before step `until`.

    validate: measure the loss on all of the rows, too, in parts of four, the third of which one process lacks.
    """
    place: dict = {"seed": 7, "folder": folder, "device": device, "parallel": layout}
    student = tiny_student(kind if kind in OBJECTIVES else "v", dropout=dropout)
    reading = {"patch": PATCH, "batch_size": 4, "seed": 7}
    if kind == "dpo":
        source = UntilStep(PairSource([data / "pairs.parquet"], **reading), until)
        return train(student, source, DPO, reference=copy.deepcopy(student), **place)
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=2, name="muon" if kind == "muon" else "adamw")
    files = sorted(data.glob("bucket-*.parquet")) if kind == "buckets" else [data / "tokens.parquet"]
    config = tiny_training(optimizer=optimizer, repa=RepaConfig() if kind == "aligned" else None)
    source = UntilStep(TokenSource(files, features=config.repa is not None, **reading), until)
    if kind == "distilled":
        fields = config.model_dump(include=set(DistilConfig.model_fields))
        head = FewStepConfig(width=16, depth=1, steps=2)
        distilling = DistilConfig(**fields, head=head, sampler=settings(head_steps=4))
        criterion = DistilHeadCriterion.create(student, source, distilling)
        return fit(new_few_step_student(student, head, seed=0), source, criterion, RunContext(**place))
    if config.repa is not None:
        student = aligned_student(student, config)
    if validate:
        rows = HeldOutRows(files, **reading)
        place["validation"] = HeldOutLoss.create(student, rows, config, every=2)
    return train(student, source, config, **place)


def in_parts(data: Path, folder: Path, kind: str, layout: ParallelConfig, device: torch.device = CPU) -> TrainResult:
    """Five steps, a cut, and what the checkpoint after three of them goes on to."""
    try:
        fitted(data, folder, kind, layout, until=5, device=device)
    except Interrupted:
        return fitted(data, folder, kind, layout, device=device)
    raise AssertionError("the run was not interrupted")


def main(folder: Path, rank: int) -> None:
    """All runs, one after another; the first process writes their logs, both the error that they met."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    rows = {}
    for kind in KINDS:
        rows[f"ddp {kind}"] = fitted(folder, folder / f"ddp-{kind}", kind, DDP, dropout=0.0).rows
        rows[f"whole {kind}"] = fitted(folder, folder / f"whole-{kind}", kind, DDP).rows
        rows[f"parts {kind}"] = in_parts(folder, folder / f"parts-{kind}", kind, DDP).rows
    for kind in SHARDED:
        rows[f"fsdp {kind}"] = fitted(folder, folder / f"fsdp-{kind}", kind, FSDP, dropout=0.0).rows
    rows["whole fsdp"] = fitted(folder, folder / "whole-fsdp", "v", FSDP).rows
    rows["parts fsdp"] = in_parts(folder, folder / "parts-fsdp", "v", FSDP).rows
    rows["validated ddp"] = fitted(folder, folder / "validated-ddp", "v", DDP, dropout=0.0, validate=True).rows
    rows["validated fsdp"] = fitted(folder, folder / "validated-fsdp", "aligned", FSDP, dropout=0.0, validate=True).rows
    with mock.patch("torch.compile", partial(torch.compile, backend="eager")):  # graphs without kernels: seconds less
        rows["frugal"] = fitted(folder, folder / "frugal", "aligned", FRUGAL, dropout=0.0, validate=True).rows
    rows["two after one"] = fitted(folder, folder / "one", "v", FSDP, dropout=0.0).rows
    try:
        fitted(folder / "broken", folder / "broken/run", "v", DDP)
    except NonFiniteLossError as error:
        (folder / f"error-{rank}.txt").write_text(str(error))
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
