"""One update: forward, backward, clipping, optimizer, average. A non-finite one is not made, and is explained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from lightgen_core.config import FitConfig, ParallelConfig
from lightgen_core.model.mar import Mar
from lightgen_core.seeds import derive_seed
from lightgen_core.train.compile import blocks_of
from lightgen_core.train.micro_batch import MicroBatch, MicroBatchSize
from lightgen_core.train.move_ahead import MoveAhead
from lightgen_core.train.optimizer import learning_rate
from lightgen_core.train.parallel import DistributedState, check_parallel, gradient_sync, parallelize, total_norm
from lightgen_core.train.state import TrainingState
from lightgen_core.train.step_noise import StepNoise, step_generator

SINGLE_PROCESS = ParallelConfig()


class Source(Protocol):
    """Source of batches; see `lightgen_core.data.batches`."""

    batch_size: int

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Any:
        """Return rows `start` to `stop` (all) of a step's batch, with `ids`, `grid`, `text` and `text_mask`."""


class LossOutput(NamedTuple):
    """Losses (rows,) to minimise, and metrics to log by name, (rows,) each and without gradient.

    A metric `loss` is logged in place of what is minimised: the part of it that is comparable between runs.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class Criterion(Protocol):
    """The objective of a run: pre-training or preference tuning."""

    @property
    def may_stop(self) -> bool:
        """True if `should_stop` may end a run, which then needs a checkpoint before its first step."""

    @property
    def config(self) -> FitConfig:
        """The run's configuration."""

    def prepare(self, model: Any, device: torch.device) -> None:
        """Set the modes of the model, and move further models to the device."""

    def sample_noise(self, grid: tuple[int, int], images: tuple[int, int], generator: Generator) -> StepNoise:
        """Sample a step's randomness (mask, timesteps, noise, dropped captions) for rows [start, stop).

        grid: (h, w) in tokens of every image of the step.
        """

    def losses(self, model: Any, batch: Any, step_noise: StepNoise) -> LossOutput:
        """Compute losses of a batch; called under autocast."""

    def flops(self, model: Any, batch: Any, step_noise: StepNoise) -> float | None:
        """Count an update on a batch, without the optimizer; None if the model's sizes are unknown."""

    def should_stop(self, rows: Sequence[dict]) -> str | None:
        """Return a reason to end the run and restore its last checkpoint, or None."""

    def may_keep(self, rows: Sequence[dict]) -> bool:
        """Return whether a run that ends early may go back to the newest row's weights; if not, they are not saved."""


class NeverStops:
    """A criterion whose runs end with their last step."""

    may_stop: ClassVar = False

    def should_stop(self, rows: Sequence[dict]) -> str | None:
        """Never stop early."""
        return None

    def may_keep(self, rows: Sequence[dict]) -> bool:
        """Keep every checkpoint."""
        return True


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient that is not finite. The weights are those before that update."""


class TrainStep:
    """Updates of a model, each a pure function of the state, the batch and (seed, step)."""

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        seed: int,
        device: torch.device,
        parallel: ParallelConfig = SINGLE_PROCESS,
    ):
        """Move the model to the device, and distribute it over the processes of torch.distributed."""
        self.ranks, self.config = DistributedState.current(), criterion.config
        check_parallel(self.config, self.ranks.world_size)
        self._padding_counts = any(isinstance(m, Mar) and m.config.attend_to_padding for m in model.modules())
        precision = self.config.precision
        self._called = parallelize(model.to(device), blocks_of(model), parallel.parallel, device, precision)
        self.state = TrainingState(model, self.config)
        self._criterion, self._seed, self._device, self._parallel = criterion, seed, device, parallel
        self._nonfinite_at = torch.full((), -1, device=device)
        self._move_ahead = MoveAhead(device)
        self._micro_batch = MicroBatchSize(model, self.config, parallel, self.ranks, device)

    def prepare(self, step: int, source: Source) -> list[MicroBatch]:
        """Load this process's rows of a step, for a GPU to page-locked memory. So a thread can run ahead."""
        mine = self.ranks.rows(self.config.batch_size)
        size = self._micro_batch.of(len(mine), step, source)
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        batches = [self._rows(source, step, part) for part in parts]
        images, generator = (mine.start, mine.stop), step_generator(self._seed, step)
        step_noise = self._criterion.sample_noise(batches[0].grid, images, generator)
        loaded = [
            MicroBatch(
                part.start,
                len(part) / len(mine),
                batch,
                step_noise.rows(part.start - mine.start, part.stop - mine.start),
            )
            for part, batch in zip(parts, batches, strict=True)
        ]
        cuda = self._device.type == "cuda"
        return [part.pin_memory() if cuda else part.to(self._device) for part in loaded]

    def step(
        self, step: int, parts: Sequence[MicroBatch], before_change: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Make update `step` (from 0). Return metrics: scalars on the device, of this process's rows.

        Nothing here waits for the device. A non-finite loss or gradient sets a flag there that makes the optimizer
        skip this update and all later ones; `nonfinite_step` reads it when the host has to wait anyway. All processes
        share the gradients, and so the flag.

        before_change: called after the backward pass, before any weight changes.
        """
        optimizer = self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config.steps, self.config.optimizer)
        metrics = self._backward_in_memory(step, parts)
        norm = total_norm([weight.grad for weight in self.state.module.parameters() if weight.grad is not None])
        self._nonfinite_at = torch.where(torch.isfinite(norm) | (self._nonfinite_at >= 0), self._nonfinite_at, step)
        before_change()
        # The fused kernel's two inputs that GradScaler also sets: it divides gradients by one, the other makes it skip.
        vars(optimizer)["grad_scale"] = (norm / self.config.optimizer.max_grad_norm).clamp(min=1.0)
        vars(optimizer)["found_inf"] = (self._nonfinite_at >= 0).float()
        optimizer.step()
        self.state.module.zero_grad()
        optimizer.zero_grad()
        self.state.ema.update(step)
        return {"loss": metrics.pop("loss"), "gradient_norm": norm} | metrics

    def nonfinite_step(self) -> int | None:
        """Return the first step that was not finite, or None. Waits for the device."""
        step = int(self._nonfinite_at)
        return None if step < 0 else step

    @torch.no_grad()
    def nonfinite_error(self, step: int, source: Source) -> NonFiniteLossError:
        """Repeat a step with the same weights and tell bad rows from a student that has diverged.

        All processes must call this.
        """
        bad: list[int] = []
        largest = 0.0
        for part in self.prepare(step, source):
            finite = torch.isfinite(self._losses(step, part, self.state.module).loss).cpu().numpy()
            bad += part.batch.ids[~finite].tolist()
            largest = max(largest, part.batch.largest())
        gathered = self.ranks.gather((bad, largest))
        bad, largest = [row for rows, _ in gathered for row in rows], max(number for _, number in gathered)
        if not math.isfinite(largest):
            named = ", ".join(map(str, bad[:16])) + (f" and {len(bad) - 16} more" if len(bad) > 16 else "")
            return NonFiniteLossError(
                f"step {step}: the loss is not finite, rows {named}; the update was not made. Latents or text of these "
                "rows are not finite themselves: look at their images and captions, or drop them"
            )
        config, what = self.config, "a loss" if bad else "the gradient"
        precision = "" if config.precision == "fp32" else f", or train with precision: fp32 ({config.precision})"
        return NonFiniteLossError(
            f"the student has diverged: at step {step} {what} is not finite, while the batch's latents and text are, "
            f"at most {largest:.3g}. Lower optimizer.learning_rate ({config.optimizer.learning_rate:g}) or "
            f"optimizer.max_grad_norm ({config.optimizer.max_grad_norm:g}){precision}"
        )

    def _rows(self, source: Source, step: int, part: range) -> Any:
        """Read rows of a step's batch, texts padded to a few lengths if compiled; ValueError if padding is read."""
        batch, parallel = source.batch(step, part.start, part.stop), self._parallel
        if parallel.compile and (missing := -batch.text.shape[1] % parallel.pad_text_to_multiple_of):
            text, mask = functional.pad(batch.text, (0, 0, 0, missing)), functional.pad(batch.text_mask, (0, missing))
            batch = replace(batch, text=text, text_mask=mask)
        distribute_like = parallel.compile or len(part) < self.config.batch_size
        if distribute_like and self._padding_counts and not batch.text_mask.all():
            raise ValueError(
                "a student with attend_to_padding trains in micro-batches, in several processes or compiled only on "
                "texts stored in one length (tokens.pad_text), a multiple of LIGHTGEN_TRAIN__PAD_TEXT_TO_MULTIPLE_OF"
            )
        return batch

    def _backward_in_memory(self, step: int, parts: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Run the backward pass, and again in smaller parts where the device runs out of memory."""
        while True:
            try:
                return self._backward(step, parts)
            except torch.OutOfMemoryError as error:
                out_of_memory = error
            if (smaller := self._micro_batch.halve(parts)) is None:
                raise torch.OutOfMemoryError(
                    f"{out_of_memory}\nTraining ran out of memory at {len(parts[0].batch.ids)} rows at once. Set "
                    "LIGHTGEN_TRAIN__MICRO_BATCH to fewer, or LIGHTGEN_TRAIN__ACTIVATION_CHECKPOINTING=true; a rerun "
                    "goes on from the last checkpoint"
                ) from out_of_memory
            del out_of_memory  # its traceback holds the activations
            parts = smaller
            self.state.module.zero_grad()
            self.state.optimizer.zero_grad()
            torch.cuda.empty_cache()  # does nothing where there is no GPU

    def _backward(self, step: int, parts: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Leave the mean loss's gradient in the weights. Return means of loss and metrics."""
        means: dict[str, Tensor] = {}
        with self._move_ahead.moving(parts) as next_part:
            for part in parts:
                with gradient_sync(self._called, enabled=part is parts[-1]):
                    losses = self._losses(step, next_part(), self._called)
                    loss = losses.loss.mean() * part.weight
                    # Times a NaN where it is not finite, so that no gradient stays finite, here or in another process.
                    (loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)).backward()
                metrics = {name: value.mean() * part.weight for name, value in losses.metrics.items()}
                for name, value in {"loss": loss.detach(), **metrics}.items():
                    means[name] = means[name] + value if name in means else value
        self.state.sync_local_grads()
        return means

    def _losses(self, step: int, part: MicroBatch, model: nn.Module) -> LossOutput:
        """Compute losses; dropout follows from (seed, step, first row), whatever the process.

        Rows that are on the host move to the device, and are widened there.
        """
        part = part.to(self._device)
        torch.manual_seed(derive_seed(self._seed, "dropout", step, *([part.row_offset] if part.row_offset else [])))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._criterion.losses(model, part.batch, part.step_noise)
