"""The training loop: flat, resumable bit for bit, and blind to what the loss is.

A step's rows, masks, times, noises and dropout are pure functions of (seed, step). So a run that was killed goes on
from its last checkpoint and ends with the bytes of a run that was not.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightgen_core.config import Layout, LoopConfig
from lightgen_core.data.batches import prefetched
from lightgen_core.device import check_bf16
from lightgen_core.train import checkpoint as checkpoints
from lightgen_core.train.async_checkpoint import Writer
from lightgen_core.train.compile import laid_out
from lightgen_core.train.metrics import Clock, Window
from lightgen_core.train.optimizer import learning_rate
from lightgen_core.train.train_step import ALONE, Criterion, MicroBatch, Source, Updater

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    step: updates in the weights; rows: the log, one dict of figures every `log_every` steps, equal for equal runs;
    laps: seconds and images per second of those rows; raw, ema: weights and averaged weights, complete state dicts
    (under fsdp in the first process only); stopped: why the run ended before its last step, or None. A stopped run has
    the weights of an earlier step than its last row.
    """

    step: int
    rows: list[dict]
    laps: list[dict]
    raw: dict[str, Tensor]
    ema: dict[str, Tensor]
    stopped: str | None


def fit(
    model: nn.Module,
    source: Source,
    criterion: Criterion,
    config: LoopConfig,
    *,
    seed: int,
    folder: Path,
    device: torch.device,
    layout: Layout = ALONE,
    on_log: Callable[[dict], None] | None = None,
    stop: Callable[[Sequence[dict]], str | None] | None = None,
) -> TrainResult:
    """Trains `model` in place for `config.steps` updates, going on from the newest sound checkpoint in `folder`.

    Where torch.distributed was initialised, all its processes call this with equal arguments; the first of them logs
    and writes checkpoints, and under fsdp the model stays sharded. Another number of processes may go on.

    Args:
        source: gives each step's batch, whose size is that of all processes together.
        criterion: makes a batch's losses; the mean over its rows is minimised.
        folder: for checkpoints and timings, of this run only; every process reads it.
        layout: micro-batches, compiled blocks and so on: where and how fast, not what.
        on_log: called with each new row of the log, together with its timing.
        stop: called with all rows after each new one; a reason ends the run and brings back its last checkpoint.

    Raises:
        NonFiniteLossError: a loss or gradient was not finite; names the step and the ids of the rows.
        CheckpointError: the checkpoints in the folder are of another run.
        ValueError: the source's batch size is not the configuration's, or layout or device do not fit it.
    """
    if source.batch_size != config.batch_size:
        raise ValueError(f"the source gives {source.batch_size} rows a step, the configuration {config.batch_size}")
    if config.precision == "bf16":
        check_bf16(device)
    updater = Updater(model, criterion, config, seed, device, layout)
    run = {"seed": seed, "config": config.model_dump(mode="json")}
    with Writer(folder, config.keep_checkpoints, device) as writer, _repeatable(device), laid_out(model, layout):
        keeper = _Keeper(folder, run, updater, writer)
        step, rows = keeper.resume()
        clock, window, stopped = Clock(folder, step), Window(), None
        if stop and step == 0:
            keeper.save(0, rows, clock)
        for parts in _prepared(updater, source, range(step, config.steps), device):
            window.add(updater.update(step, parts, writer.hold))
            step += 1
            log_now = step % config.log_every == 0 or step == config.steps
            if (log_now or device.type == "cpu") and (broken := updater.broken_step()) is not None:
                raise updater.explain(broken, source)
            if not log_now:
                continue
            lap = clock.lap(step, window.steps * config.batch_size)
            rate = learning_rate(step - 1, config.steps, config.optimizer)
            rows.append({"step": step, "learning_rate": rate} | window.take(updater.ranks.mean))
            if on_log and updater.ranks.rank == 0:
                on_log(rows[-1] | lap)
            if stop and (stopped := stop(rows)):
                break
            if step % config.checkpoint_every == 0 or step == config.steps:
                keeper.save(step, rows, clock)
        if stopped:
            logger.warning("stopped at step %d: %s; going back to the last checkpoint", step, stopped)
            step, _ = keeper.resume()
    raw, averages = updater.state.model_tensors()
    return TrainResult(step, rows, clock.laps, raw, raw | averages, stopped)


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Leave the caller's random state alone, and make updates on a CPU repeatable to the bit.

    With several threads the backward of a gather otherwise adds in the order in which threads arrive, and two equal
    runs drift apart after a step or two.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _prepared(updater: Updater, source: Source, steps: range, device: torch.device) -> Iterable[Sequence[MicroBatch]]:
    """Batch and draw of every step; for an accelerator they are made while it is busy with the step before.

    On a CPU a thread that uses torch brings OpenMP threads of its own, and the update then waits for cores: measured on
    two of them, 190 ms a step with such a thread and 117 ms without.
    """

    def prepare(step: int) -> Sequence[MicroBatch]:
        return updater.prepare(step, source)

    return map(prepare, steps) if device.type == "cpu" else prefetched(prepare, steps)


@dataclass(frozen=True)
class _Keeper:
    """Checkpoints of one run: written by the first process, read by all."""

    folder: Path
    run: dict
    updater: Updater
    writer: Writer

    def save(self, step: int, rows: list[dict], clock: Clock) -> None:
        """Saves the state after `step` updates."""
        state = checkpoints.capture(step, self.updater.state, rows, self.run)
        if self.updater.ranks.rank == 0:
            self.writer.save(state)
            clock.save()

    def resume(self) -> tuple[int, list[dict]]:
        """Brings back the newest sound checkpoint of this very run. Returns its step and log, or 0 and none."""
        self.writer.wait()
        self.updater.ranks.gather(None)  # the others wait for the one that writes
        found = checkpoints.latest(self.folder)
        steps = self.updater.ranks.gather(found and found.step)
        if len(set(steps)) > 1:
            raise checkpoints.CheckpointError(
                f"the processes find checkpoints of different steps in {self.folder}: {steps} (None: none); "
                "the folder must be on a disk that all machines share"
            )
        if found is None:
            return 0, []
        if found.run != self.run:
            before, now = found.run.get("config", {}), self.run["config"]
            differing = [key for key in now if before.get(key) != now[key]]
            raise checkpoints.CheckpointError(
                f"{self.folder} holds checkpoints of a run with another {', '.join(differing) or 'seed'}; "
                "use a fresh folder, or the configuration and seed that it was started with"
            )
        checkpoints.restore(found, self.updater.state)
        logger.info("going on from step %d in %s", found.step, self.folder)
        return found.step, list(found.rows)
