"""The loss on held-out rows while a student trains, at noise that is the same at every measurement.

Masks, times and noise are those of fixed steps of a seed of their own (`StepNoise`), captions are never dropped, and
dropout is off. So two measurements differ by the weights alone, and nothing of the training depends on them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from lightgen_core.config import TimestepsConfig, TrainConfig
from lightgen_core.data.held_out import HeldOutRows
from lightgen_core.model.mar import Student
from lightgen_core.train.compile import uncompiled
from lightgen_core.train.parallel import DistributedState
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.state import TrainingState
from lightgen_core.train.step_noise import step_generator

PART_ROWS = 32
"""Rows of one forward pass, all with one number of masked tokens; part of the result, whatever the training's batch."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean loss of the averaged weights over rows that training never sees; measured every `every` steps."""

    rows: HeldOutRows
    criterion: MaskedDenoisingCriterion
    every: int

    @classmethod
    def create(cls, student: Student, rows: HeldOutRows, config: TrainConfig, every: int) -> Self:
        """Return the loss that fits a student and its training; `rows` come in parts of `PART_ROWS`."""
        # Of all trainings alike: uniform times, no masked token left out, and no alignment.
        noise = {"timesteps": TimestepsConfig(), "mask": config.mask.model_copy(update={"drop_ratio": 0.0})}
        alike = {"batch_size": rows.batch_size, "caption_dropout": 0.0, "repa": None}
        always = config.model_copy(update=alike | noise)
        return cls(rows, MaskedDenoisingCriterion.create(student, rows, always), every)

    def measure(self, state: TrainingState, device: torch.device) -> float:
        """Return the loss, the same in every process; all must call this, each takes its turn of the parts.

        Waits for the device. Weights, averages and modes are afterwards what they were.
        """
        ranks, parts = DistributedState.current(), len(self.rows)
        sums = torch.zeros(parts, device=device)
        with _averaged(state), torch.no_grad():
            for turn in range(-(-parts // ranks.world_size)):
                number = turn * ranks.world_size + ranks.rank
                # One without a part repeats the last: under fsdp the others wait for its share of the weights.
                losses = self._losses(state.module, min(number, parts - 1), device)
                if number < parts:
                    sums[number] = losses.sum()
        return ranks.world_size * float(ranks.mean(sums).double().sum()) / self.rows.rows

    def _losses(self, module: nn.Module, number: int, device: torch.device) -> Tensor:
        """Return the losses of a part's rows, (rows,)."""
        batch, config = self.rows.part(number), self.criterion.config
        generator = step_generator(self.rows.seed, number)
        step_noise = self.criterion.sample_noise(batch.grid, (0, len(batch.ids)), generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return self.criterion.losses(cast(Student, module), batch.to(device), step_noise).loss.float()


@contextmanager
def _averaged(state: TrainingState) -> Iterator[None]:
    """Put the averages in the weights' place, in evaluation mode and uncompiled, and everything back on exit."""
    module, training = state.module, state.module.training
    state.swap_averages()
    module.eval()
    try:
        with uncompiled(module):
            yield
    finally:
        module.train(training)
        state.swap_averages()
