"""The training loop: flat, resumable bit for bit, and blind to what the loss is.

A step's rows, masks, times, noises and dropout are pure functions of (seed, step). So a run that was killed goes on
from its last checkpoint and ends with the bytes of a run that was not.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightgen_core.config import LoopConfig
from lightgen_core.draw import Draw
from lightgen_core.train import checkpoint as checkpoints
from lightgen_core.train.data import prefetched
from lightgen_core.train.log import Clock, Window
from lightgen_core.train.optimizer import learning_rate
from lightgen_core.train.update import Criterion, Updater

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where batches come from; see `lightgen_core.train.data`."""

    batch_size: int

    def batch(self, step: int) -> Any:
        """The rows of one update, with `ids`."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    step: updates in the weights; rows: the log, one dict of figures every `log_every` steps, equal for equal runs;
    laps: seconds and images per second of those rows; ema: averaged weights, a complete state dict; stopped: why the
    run ended before its last step, or None. A stopped run has the weights of an earlier step than its last row.
    """

    step: int
    rows: list[dict]
    laps: list[dict]
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
    on_log: Callable[[dict], None] | None = None,
    stop: Callable[[Sequence[dict]], str | None] | None = None,
) -> TrainResult:
    """Trains `model` in place for `config.steps` updates, going on from the newest sound checkpoint in `folder`.

    Args:
        source: gives each step's batch.
        criterion: makes a batch's losses; the mean over its rows is minimised.
        folder: for checkpoints and timings, of this run only.
        on_log: called with each new row of the log, together with its timing.
        stop: called with all rows after each new one; a reason ends the run and brings back its last checkpoint.

    Raises:
        NonFiniteLossError: a loss or gradient was not finite; names the step and the ids of the rows.
        CheckpointError: the checkpoints in the folder are of another run.
        ValueError: the source's batch size is not the configuration's.
    """
    if source.batch_size != config.batch_size:
        raise ValueError(f"the source gives {source.batch_size} rows a step, the configuration {config.batch_size}")
    updater = Updater(model, criterion, config, seed, device)
    run = {"seed": seed, "config": config.model_dump(mode="json")}
    step, rows = _resume(folder, run, updater)
    clock, window, stopped = Clock(folder, step), Window(), None
    if stop and step == 0:
        _save(folder, 0, updater, rows, run, clock)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _repeatable(device):
        for batch, draw in _prepared(updater, source, range(step, config.steps), device):
            window.add(updater.update(step, batch, draw))
            step += 1
            log_now = step % config.log_every == 0 or step == config.steps
            if (log_now or device.type == "cpu") and (broken := updater.broken_step()) is not None:
                raise updater.explain(broken, source.batch(broken))
            if not log_now:
                continue
            lap = clock.lap(step, window.steps * config.batch_size)
            rate = learning_rate(step - 1, config.steps, config.optimizer)
            rows.append({"step": step, "learning_rate": rate} | window.take())
            if on_log:
                on_log(rows[-1] | lap)
            if stop and (stopped := stop(rows)):
                break
            if step % config.checkpoint_every == 0 or step == config.steps:
                _save(folder, step, updater, rows, run, clock)
    if stopped:
        logger.warning("stopped at step %d: %s; going back to the last checkpoint", step, stopped)
        step, _ = _resume(folder, run, updater)
    return TrainResult(step, rows, clock.laps, model.state_dict() | updater.ema.state_dict(), stopped)


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Make updates on a CPU repeatable to the bit.

    With several threads the backward of a gather otherwise adds in the order in which threads arrive, and two equal
    runs drift apart after a step or two.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _prepared(updater: Updater, source: Source, steps: range, device: torch.device) -> Iterable[tuple[Any, Draw]]:
    """Batch and draw of every step; for an accelerator they are made while it is busy with the step before.

    On a CPU a thread that uses torch brings OpenMP threads of its own, and the update then waits for cores: measured on
    two of them, 190 ms a step with such a thread and 117 ms without.
    """

    def prepare(step: int) -> tuple[Any, Draw]:
        return updater.prepare(step, source.batch(step))

    return map(prepare, steps) if device.type == "cpu" else prefetched(prepare, steps)


def _save(folder: Path, step: int, updater: Updater, rows: list[dict], run: dict, clock: Clock) -> None:
    state = checkpoints.capture(step, updater.model, updater.ema, updater.optimizer, rows, run)
    checkpoints.save(folder, state, updater.config.keep)
    clock.save()


def _resume(folder: Path, run: dict, updater: Updater) -> tuple[int, list[dict]]:
    """Brings back the newest sound checkpoint of this very run. Returns its step and log; 0 and none without one."""
    found = checkpoints.latest(folder)
    if found is None:
        return 0, []
    if found.run != run:
        differing = [key for key in run["config"] if found.run.get("config", {}).get(key) != run["config"][key]]
        raise checkpoints.CheckpointError(
            f"{folder} holds checkpoints of a run with another {', '.join(differing) or 'seed'}; "
            "use a fresh folder, or the configuration and seed that it was started with"
        )
    checkpoints.restore(found, updater.model, updater.ema, updater.optimizer)
    logger.info("going on from step %d in %s", found.step, folder)
    return found.step, list(found.rows)
