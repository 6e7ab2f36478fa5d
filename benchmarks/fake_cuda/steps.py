"""Training steps on fake CUDA tensors: students, rows without values, and what a step did."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.fake_cuda.backward import backward
from benchmarks.fake_cuda.mode import CUDA, FakeCuda
from benchmarks.fake_cuda.watch import Watch
from lightgen_core.config import (
    DistilConfig,
    DpoConfig,
    HeadConfig,
    LoopConfig,
    MarConfig,
    ParallelConfig,
    ProjectorConfig,
    RepaConfig,
    TrainConfig,
)
from lightgen_core.data.batches import Batch, PairBatch
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.aligned import AlignedStudent
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.mar import Student
from lightgen_core.train.compile import apply_compile_and_ac
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.dpo import DpoCriterion
from lightgen_core.train.micro_batch import MicroBatchSize
from lightgen_core.train.parallel import DistributedState
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import TrainStep

TINY = MarConfig(
    token_width=8,
    text_width=24,
    width=32,
    heads=4,
    aligner_depth=1,
    encoder_depth=1,
    decoder_depth=1,
    text_depth=1,
    position_grid=4,
)
TINY_HEAD = HeadConfig(width=48, depth=1)
FEATURE_CHANNELS = 768


@dataclass
class FakeRows:
    """A source whose every batch has the same sizes, and fp16 values as a set stores them."""

    mar: MarConfig
    grid: tuple[int, int]
    text_tokens: int
    batch_size: int
    pairs: bool = False
    moments: bool = False
    features: bool = False

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Any:
        rows = (self.batch_size if stop is None else stop) - start
        tokens = self.grid[0] * self.grid[1]

        def images() -> Tensor:
            return torch.empty(rows, tokens, self.mar.token_width, dtype=torch.float16)

        text = torch.empty(rows, self.text_tokens, self.mar.text_width, dtype=torch.float16)
        mask, ids = torch.ones(rows, self.text_tokens, dtype=torch.bool), np.arange(rows)
        if self.pairs:
            return PairBatch(ids, self.grid, images(), images(), text, mask)
        features = torch.empty(rows, tokens, FEATURE_CHANNELS, dtype=torch.float16) if self.features else None
        return Batch(ids, self.grid, images(), text, mask, images() if self.moments else None, features)

    def largest(self, step: int) -> tuple[tuple[int, int], int]:
        return self.grid, self.text_tokens


def _student(mar: MarConfig, head: HeadConfig, repa: RepaConfig | None) -> Student:
    student = Student(mar, head)
    return student if repa is None else AlignedStudent(student, repa.resolve(mar, FEATURE_CHANNELS))


def rows_at_once(student: Any, config: LoopConfig, rows: FakeRows, memory: int) -> int:
    """Return how many rows of a batch `micro_batch: auto` passes together on a GPU of `memory` bytes."""
    with (
        mock.patch("torch.cuda.mem_get_info", lambda *_: (memory, memory)),
        mock.patch("torch.cuda.memory_reserved", lambda *_: 0),
    ):
        size = MicroBatchSize(student, config, ParallelConfig(), DistributedState(), CUDA)
    return size.of(config.batch_size, 0, rows)


@dataclass
class FakeTraining:
    """A training on fake tensors; `saved` are the bytes that the last step's forward passes kept, weights left out."""

    cuda: FakeCuda
    student: Student | FewStepStudent
    step: TrainStep
    rows: FakeRows
    parallel: ParallelConfig
    saved: int = 0
    forward_kernels: int = 0

    @classmethod
    def start(
        cls,
        cuda: FakeCuda,
        mar: MarConfig = TINY,
        head: HeadConfig = TINY_HEAD,
        *,
        config: LoopConfig | None = None,
        grid: tuple[int, int] = (4, 4),
        text_tokens: int = 5,
        moments: bool = False,
        memory: int | None = None,
        **parallel: Any,
    ) -> "FakeTraining":
        """Build student, state and criterion: what the configuration is of.

        memory: bytes of a GPU; then a batch has the rows alone that pass through the model together on it.
        """
        config = config or TrainConfig(batch_size=4)
        repa = config.repa if isinstance(config, TrainConfig) else None
        tuning = isinstance(config, DpoConfig)
        rows = FakeRows(mar, grid, text_tokens, config.batch_size, tuning, moments, repa is not None)
        goal: Any = get_objective(head.objective)
        criterion: Any
        student: Any
        if isinstance(config, DistilConfig):
            sizes = config.head
            student = cuda.build(lambda: FewStepStudent(mar, sizes))
        else:
            student = cuda.build(lambda: _student(mar, head, repa))
        if memory is not None:
            fitting = rows_at_once(student, config, rows, memory)
            config, rows = config.model_copy(update={"batch_size": fitting}), replace(rows, batch_size=fitting)
        if isinstance(config, DistilConfig):
            source: Any = rows
            criterion = DistilHeadCriterion.create(cuda.build(lambda: Student(mar, head)), source, config)
        elif isinstance(config, DpoConfig):
            criterion = DpoCriterion(cuda.build(lambda: Student(mar, head)), mar.token_width, goal, config)
        else:
            assert isinstance(config, TrainConfig)
            criterion = MaskedDenoisingCriterion(mar.token_width, goal, config, moments)
        criterion.prepare(student, CUDA)
        layout = ParallelConfig(micro_batch=None, **parallel)
        return cls(cuda, student, TrainStep(student, criterion, 0, CUDA, layout), rows, layout)

    @property
    def projector(self) -> ProjectorConfig | None:
        """Return the sizes of the student's projector, if it has one."""
        return self.student.projector_config if isinstance(self.student, AlignedStudent) else None

    def resident(self) -> list[Any]:
        """Return what is on the device between steps."""
        state, criterion = self.step.state, self.step._criterion
        moments = [value for of in state.optimizer.state.values() for value in of.values()]
        reference = [criterion.reference] if isinstance(criterion, DpoCriterion) else []
        reference += [criterion.teacher] if isinstance(criterion, DistilHeadCriterion) else []
        gradients = [weight.grad for weight in state.weights.values() if weight.grad is not None]
        return [self.student, *state.ema.state_dict().values(), *moments, *gradients, *reference]

    def warm(self) -> None:
        """Bring the state to where a later part of a step finds it: with moments, and gradients of the part before."""
        weights, optimizer = self.step.state.weights.values(), self.step.state.optimizer
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()

    def run(self, number: int, masked: int | None = None) -> Watch:
        """Make an update, of `masked` masked tokens, and return what was seen of it."""
        weights = {weight.untyped_storage()._cdata for weight in self.student.parameters()}
        with ExitStack() as stack:
            if masked is not None:
                stack.enter_context(mock.patch("lightgen_core.train.step_noise.sample_num_masked", lambda *_: masked))
            parts = self.step.prepare(number, self.rows)
            watch = self.cuda.watch(*self.resident())

            def counted(loss: Tensor) -> None:
                self.saved, self.forward_kernels = self.cuda.saved.bytes(weights), len(watch.kernels)
                backward(loss, self.cuda.saved)

            stack.enter_context(mock.patch.object(Tensor, "backward", counted))
            stack.enter_context(apply_compile_and_ac(self.student, self.parallel))
            with watch:
                self.step.step(number, parts)
        return watch
