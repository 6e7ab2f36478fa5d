"""Training checkpoints, written atomically; a resume takes the newest intact one.

`<folder>/step-00001000/` holds `model.safetensors`, `ema.safetensors`, `optimizer.safetensors`, `state.json` and
`checksums.json`. There is no generator state: a step's rows and noise are pure functions of (seed, step).
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from lightgen_core.model.atomic_folder import DamagedFolderError, verify_folder, write_folder
from lightgen_core.train.state import Tensors, TrainingState

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """An intact checkpoint that does not belong to this run."""


@dataclass(frozen=True)
class Checkpoint:
    """A training state after `step` updates.

    tensors: of `TrainingState`; rows: the log so far; run: what a resume must have in common (seed, configuration).
    """

    step: int
    tensors: Tensors
    rows: list[dict]
    run: dict


def restore(checkpoint: Checkpoint, state: TrainingState) -> None:
    """Put a checkpoint's tensors into a state; CheckpointError if they are of a model of another shape."""
    try:
        state.load(checkpoint.tensors)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint at step {checkpoint.step} is of another model: {error}; use a fresh folder, or the "
            "configuration that it was trained with"
        ) from error


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint atomically, then delete all but the newest `keep`. Return its path."""
    path = Path(folder) / f"step-{checkpoint.step:08d}"
    state = {"step": checkpoint.step, "rows": checkpoint.rows, "run": checkpoint.run}
    write_folder(path, checkpoint.tensors, {"state": state})
    for old in saved_steps(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def saved_steps(folder: Path) -> list[Path]:
    """List the checkpoints of a folder, oldest first, intact or not."""
    return sorted(Path(folder).glob("step-[0-9]*"))


def latest(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint or None; damaged ones are passed over with a warning."""
    for path in reversed(saved_steps(folder)):
        try:
            verify_folder(path)
        except DamagedFolderError as error:
            log.warning("damaged checkpoint passed over: %s; trying the one before it", error)
            continue
        tensors = {name: load_file(path / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}
        return Checkpoint(tensors=tensors, **json.loads((path / "state.json").read_bytes()))
    return None
