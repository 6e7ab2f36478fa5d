"""Students saved while training goes on, and whatever else looks at the weights of chosen steps."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightgen_core.launch.job import SnapshotConfig, TrainingJob
from lightgen_core.launch.previews import PreviewWriter
from lightgen_core.model.aligned import student_weights
from lightgen_core.model.mar import Student
from lightgen_core.model.save import save_student
from lightgen_core.train.loop import OnSnapshot
from lightgen_core.train.parallel import DistributedState


def snapshot_folder(folder: Path, step: int) -> Path:
    """Return the folder of the student that is saved after a step."""
    return folder / f"{step:08d}"


def snapshots_of(
    job: TrainingJob, student: Student, info: dict[str, Any], device: torch.device
) -> tuple[frozenset[int], OnSnapshot | None]:
    """Return the steps after which a job's weights are looked at, and on rank 0 what looks at them, its models loaded.

    student: of the sizes to come; info: contents of its config.json.
    """
    previewed, saved = (config.steps if config else () for config in (job.previews, job.snapshots))
    steps = frozenset((*previewed, *saved))
    if not steps or DistributedState.current().rank:
        return steps, None
    previews = PreviewWriter(job.previews, student, info, device) if job.previews else None
    students = SnapshotWriter(job.snapshots, student, info) if job.snapshots else None

    def on_snapshot(step: int, raw: dict[str, Tensor], ema: dict[str, Tensor]) -> None:
        raw, ema = student_weights(raw), student_weights(ema)
        if previews is not None and step in previewed:
            previews(step, ema)
        if students is not None and step in saved:
            students(step, raw, ema)

    return steps, on_snapshot


class SnapshotWriter:
    """Saves the averaged student of a step."""

    def __init__(self, config: SnapshotConfig, student: Student, info: dict[str, Any]) -> None:
        """student: of the sizes to come; info: contents of its config.json."""
        self._folder, self._sizes, self._info = config.folder, (student.mar.config, student.head.config), info

    def __call__(self, step: int, raw: dict[str, Tensor], ema: dict[str, Tensor]) -> None:
        """Save the averaged weights of a step, complete; a folder that is there is of the same bytes, and stays."""
        folder = snapshot_folder(self._folder, step)
        if folder.is_dir():
            return
        with torch.device("meta"):
            student = Student(*self._sizes)
        student.load_state_dict(raw, assign=True)
        save_student(folder, student, ema, self._info, raw=False)
