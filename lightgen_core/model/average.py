"""The mean of several students' weights, where they are steps of one course of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightgen_core.model.mar import Student
from lightgen_core.model.save import StudentError, load_student


def average_students(folders: Sequence[Path]) -> tuple[Student, dict[str, Tensor], dict[str, Any]]:
    """Average saved students: raw and averaged weights, each on their own (stochastic weight averaging, 1803.05407).

    Returns:
        The student with raw weights, its averaged ones, and the last folder's `info`.

    Raises:
        StudentError: as `load_student`, or the students are of different sizes.
    """
    ema, _, _ = _mean(folders, "ema")
    raw, student, info = _mean(folders, "raw")
    student.load_state_dict(raw)
    return student, ema, info


def _mean(folders: Sequence[Path], weights: Literal["ema", "raw"]) -> tuple[dict[str, Tensor], Student, dict[str, Any]]:
    """Return the mean of the folders' weights, summed in float64, with the last student and its `info`."""
    sums: dict[str, Tensor] = {}
    for folder in folders:
        student, info = load_student(folder, weights)
        state = student.state_dict()
        if sums and _shapes(state) != _shapes(sums):
            raise StudentError(
                f"{folder} and {folders[0]} hold students of different sizes: their weights have no mean"
            )
        sums = {name: sums.get(name, 0) + tensor.to(torch.float64) for name, tensor in state.items()}
    return {name: (sums[name] / len(folders)).to(tensor.dtype) for name, tensor in state.items()}, student, info


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
