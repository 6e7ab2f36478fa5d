"""The training loop: flat, resumable bit for bit, and blind to what the loss is.

A step's rows, masks, times, noises and dropout are pure functions of (seed, step). So a run that was killed goes on
from its last checkpoint and ends with the bytes of a run that was not.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lightgen_core.config import ParallelConfig
from lightgen_core.data.batches import prefetch
from lightgen_core.device import check_bf16
from lightgen_core.train import checkpoint as checkpoints
from lightgen_core.train.async_checkpoint import AsyncCheckpointWriter
from lightgen_core.train.compile import apply_compile_and_ac
from lightgen_core.train.metrics import MetricAverager, ThroughputMeter
from lightgen_core.train.optimizer import learning_rate
from lightgen_core.train.train_step import SINGLE_PROCESS, Criterion, Source, TrainStep
from lightgen_core.train.validation import HeldOutLoss

logger = logging.getLogger(__name__)

OnSnapshot = Callable[[int, dict[str, Tensor], dict[str, Tensor]], None]


@dataclass(frozen=True)
class RunContext:
    """Location and parallelism of a run; only `seed` affects the result.

    folder: for checkpoints and timings of this run only, readable by every process; on_log: receives each new row of
    the log with its timing, on rank 0; on_snapshot: on rank 0, receives the step, the raw and the averaged weights
    (complete state dicts) after each of `snapshot_steps`, which it must not change; it may be called again after a
    kill; validation: loss on held-out rows, which adds `validation_loss` to log rows of every so many steps.
    """

    seed: int
    folder: Path
    device: torch.device
    parallel: ParallelConfig = SINGLE_PROCESS
    on_log: Callable[[dict], None] | None = None
    snapshot_steps: frozenset[int] = frozenset()
    on_snapshot: OnSnapshot | None = None
    validation: HeldOutLoss | None = None


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    step: updates in the weights; rows: the log, equal for equal runs; timings: seconds and images per second of those
    rows; raw, ema: complete state dicts (under fsdp on rank 0 only); stopped: reason to end before the last step, with
    weights of an earlier step than the last row.
    """

    step: int
    rows: list[dict]
    timings: list[dict]
    raw: dict[str, Tensor]
    ema: dict[str, Tensor]
    stopped: str | None


def fit(model: nn.Module, source: Source, criterion: Criterion, run: RunContext) -> TrainResult:
    """Train `model` in place, continuing from the newest intact checkpoint in `run.folder`.

    Where torch.distributed is initialised, all its processes call this with equal arguments; rank 0 logs
    and writes checkpoints, and under fsdp the model stays sharded. Another number of processes may continue.

    Raises:
        NonFiniteLossError: a loss or gradient was not finite; names the step and the ids of the rows.
        CheckpointError: the checkpoints in the folder are of another run.
        ValueError: the source's batch size is not the configuration's, or parallel or device do not fit it.
    """
    config, device = criterion.config, run.device
    if source.batch_size != config.batch_size:
        raise ValueError(f"the source gives {source.batch_size} rows a step, the configuration {config.batch_size}")
    if config.precision == "bf16":
        check_bf16(device)
    criterion.prepare(model, device)
    train_step = TrainStep(model, criterion, run.seed, device, run.parallel)
    identity = {"seed": run.seed, "config": config.model_dump(mode="json")}
    writer = AsyncCheckpointWriter(run.folder, config.keep_checkpoints, device)
    with writer, _deterministic(device), apply_compile_and_ac(model, run.parallel):
        manager = _CheckpointManager(run.folder, identity, train_step, writer)
        step, rows = manager.resume()
        meter, averager, stopped = ThroughputMeter(run.folder, step), MetricAverager(), None
        flops: list[float | None] = []
        if criterion.may_stop and step == 0:
            manager.save(0, rows, meter)
        # On a CPU a thread that uses torch brings OpenMP threads of its own, and the update waits for cores: on two of
        # them 190 ms a step with such a thread and 117 ms without.
        batches = map if device.type == "cpu" else prefetch
        for parts in batches(partial(train_step.prepare, source=source), range(step, config.steps)):
            averager.add(train_step.step(step, parts, writer.wait_for_copy))
            flops += [criterion.flops(model, part.batch, part.step_noise) for part in parts]
            step += 1
            log_now = step % config.log_every == 0 or step == config.steps
            snapshot_now = step in run.snapshot_steps
            if (log_now or snapshot_now or device.type == "cpu") and (
                broken := train_step.nonfinite_step()
            ) is not None:
                raise train_step.nonfinite_error(broken, source)
            if snapshot_now:
                _take_snapshot(run, train_step, step)
            if not log_now:
                continue
            timing = meter.record(step, averager.steps * config.batch_size)
            rate = learning_rate(step - 1, config.steps, config.optimizer)
            rows.append({"step": step, "learning_rate": rate} | averager.compute(train_step.ranks.mean))
            rows[-1] |= _validate(run, train_step, step, config.steps)
            if run.on_log and train_step.ranks.rank == 0:
                run.on_log(rows[-1] | timing | _total_flops(flops, train_step.ranks.world_size))
            flops.clear()
            if stopped := criterion.should_stop(rows):
                break
            if (step % config.checkpoint_every == 0 or step == config.steps) and criterion.may_keep(rows):
                manager.save(step, rows, meter)
        if stopped:
            logger.warning("stopped at step %d: %s; going back to the last checkpoint", step, stopped)
            step, _ = manager.resume()
    raw, averages = train_step.state.model_tensors()
    return TrainResult(step, rows, meter.timings, raw, raw | averages, stopped)


def _total_flops(flops: Sequence[float | None], processes: int) -> dict[str, float]:
    """Return the FLOPs of a log row, all processes together, which have equal shares; nothing where one is unknown."""
    known = [count for count in flops if count is not None]
    return {"flops": processes * sum(known)} if len(known) == len(flops) else {}


def _take_snapshot(run: RunContext, train_step: TrainStep, step: int) -> None:
    raw, averages = train_step.state.model_tensors()  # under fsdp all processes gather them
    if run.on_snapshot and train_step.ranks.rank == 0:
        run.on_snapshot(step, raw, raw | averages)


def _validate(run: RunContext, train_step: TrainStep, step: int, steps: int) -> dict[str, float]:
    """Return the loss on held-out rows for the log, if it is time. No checkpoint is being copied just after a step."""
    if run.validation is None or (step % run.validation.every and step != steps):
        return {}
    return {"validation_loss": run.validation.measure(train_step.state, run.device)}


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Keep the caller's random state, and make CPU updates repeatable: a gather's backward adds in thread order."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@dataclass(frozen=True)
class _CheckpointManager:
    """Checkpoints of one run: written by the first process, read by all."""

    folder: Path
    run: dict
    train_step: TrainStep
    writer: AsyncCheckpointWriter

    def save(self, step: int, rows: list[dict], meter: ThroughputMeter) -> None:
        """Save the state after `step` updates."""
        tensors = self.train_step.state.tensors()
        if self.train_step.ranks.rank == 0:
            self.writer.save(checkpoints.Checkpoint(step, tensors, list(rows), self.run))
            meter.save()

    def resume(self) -> tuple[int, list[dict]]:
        """Restore the newest intact checkpoint of this run. Return its step and log, or 0 and none."""
        self.writer.wait()
        self.train_step.ranks.gather(None)  # the others wait for the one that writes
        latest = checkpoints.latest(self.folder)
        steps = self.train_step.ranks.gather(latest and latest.step)
        if len(set(steps)) > 1:
            raise checkpoints.CheckpointError(
                f"the processes find checkpoints of different steps in {self.folder}: {steps} (None: none); "
                "the folder must be on a disk that all machines share"
            )
        if latest is None:
            return 0, []
        if latest.run != self.run:
            before, now = latest.run.get("config", {}), self.run["config"]
            differing = [key for key in now if before.get(key) != now[key]]
            raise checkpoints.CheckpointError(
                f"{self.folder} holds checkpoints of a run with another {', '.join(differing) or 'seed'}; "
                "use a fresh folder, or the configuration and seed that it was started with"
            )
        checkpoints.restore(latest, self.train_step.state)
        logger.info("going on from step %d in %s", latest.step, self.folder)
        return latest.step, list(latest.rows)
