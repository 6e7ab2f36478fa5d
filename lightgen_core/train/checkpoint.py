"""Training checkpoints: everything a resume needs, whole or not there, the newest sound one found by itself.

`<folder>/step-00001000/` holds `model.safetensors`, `ema.safetensors`, `optimizer.safetensors`, `state.json` and
`checksums.json`. There is no generator state: a step's rows and chance are pure functions of (seed, step).
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lightgen_core.model.atomic_folder import DamagedFolderError, verify_folder, write_folder
from lightgen_core.train.state import TrainingState

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A sound checkpoint that does not belong to this run."""


@dataclass(frozen=True)
class Checkpoint:
    """A training state after `step` updates.

    model, ema, optimizer: tensors by name (optimizer: "<parameter>/exp_avg" and so on); rows: the log so far;
    run: what must be equal for a resume to mean anything (seed, configuration).
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rows: list[dict]
    run: dict


def capture(step: int, state: TrainingState, rows: list[dict], run: dict) -> Checkpoint:
    """The state of a run; its tensors are the live ones, so save or copy it before the next update."""
    return Checkpoint(step, **state.tensors(), rows=list(rows), run=run)


def restore(checkpoint: Checkpoint, state: TrainingState) -> None:
    """Put a checkpoint's tensors into the state of a run, whatever number of processes wrote it.

    Raises:
        CheckpointError: the checkpoint is of a model of another shape.
    """
    try:
        state.load({"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer})
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint at step {checkpoint.step} is of another model: {error}; use a fresh folder, or the "
            "configuration that it was trained with"
        ) from error


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint atomically, then deletes all but the newest `keep`. Returns its path."""
    path = Path(folder) / f"step-{checkpoint.step:08d}"
    state = {"step": checkpoint.step, "rows": checkpoint.rows, "run": checkpoint.run}
    tensors = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
    write_folder(path, tensors, {"state": state})
    for old in saved_steps(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def saved_steps(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first, sound or not."""
    return sorted(Path(folder).glob("step-[0-9]*"))


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are all as written; None where there is none.

    A damaged one is passed over with a warning that names the file, and the one before it is used.
    """
    for path in reversed(saved_steps(folder)):
        try:
            verify_folder(path)
        except DamagedFolderError as error:
            log.warning("damaged checkpoint passed over: %s; trying the one before it", error)
            continue
        return _read(path)
    return None


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_bytes())
    model, ema, optimizer = (load_file(path / f"{name}.safetensors") for name in ("model", "ema", "optimizer"))
    return Checkpoint(state["step"], model, ema, optimizer, state["rows"], state["run"])
