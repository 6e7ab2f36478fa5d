"""A finished student on disk: `config.json`, `model.safetensors` (raw weights) and `ema.safetensors` (averaged).

A student that was distilled has `few_step.safetensors` beside them, and the sizes of its head in `config.json`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig
from lightgen_core.model.atomic_folder import DamagedFolderError, verify_folder, write_folder
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.mar import Student

Loaded = TypeVar("Loaded")

FORMAT = 1
FEW_STEP = "few_step"
"""Name of the few-step student's file, and of its head's sizes in `config.json`."""
_FILES = {"raw": "model.safetensors", "ema": "ema.safetensors"}
_FORMER_NAMES = {"null_word": "null_text", "reader_": "cross_", r"reader\.": "cross_blocks."}
"""Beginnings of parameter names in `mar` of earlier versions, and of today."""


class StudentError(ValueError):
    """A folder that does not hold a student this version can load."""


def save_student(
    folder: Path,
    student: Student,
    ema: Mapping[str, Tensor],
    info: Mapping[str, Any],
    few_step: FewStepStudent | None = None,
    *,
    raw: bool = True,
) -> None:
    """Write or replace a student, whole or not at all; equal students give equal bytes.

    Args:
        student: its own weights are the raw ones.
        ema: the averaged weights, a complete state dict.
        info: plain JSON for a sampler (patch, grid, codec, text encoder, sampler defaults).
        few_step: what was distilled from the averaged student, if anything.
        raw: False leaves the raw weights out: half the disk, for a student that is sampled and not trained on.

    Raises:
        StudentError: `ema` is of another student.
    """
    weights = student.state_dict()
    if ema.keys() != weights.keys():
        raise StudentError(f"averaged weights do not match the student's: {sorted(ema.keys() ^ weights.keys())[:5]}")
    config: dict[str, Any] = {
        "format": FORMAT,
        "mar": student.mar.config.model_dump(mode="json"),
        "head": student.head.config.model_dump(mode="json"),
        "info": dict(info),
    }
    tensors: dict[str, Mapping[str, Tensor]] = ({"model": weights} if raw else {}) | {"ema": ema}
    if few_step is not None:
        config[FEW_STEP] = few_step.head.sizes.model_dump(mode="json")
        tensors[FEW_STEP] = few_step.state_dict()
    write_folder(Path(folder), tensors, {"config": config})


def load_student(
    folder: Path, weights: Literal["ema", "raw"] = "ema", device: torch.device | str = "cpu"
) -> tuple[Student, dict[str, Any]]:
    """Load a student in evaluation mode. Return it with its `info`.

    Raises:
        StudentError: no student there, a damaged file, another format, or weights that do not fit the configuration.
    """
    if weights not in _FILES:
        raise StudentError(f"weights {weights!r} are unknown; choose ema or raw")

    def load(config: dict[str, Any]) -> tuple[Student, dict[str, Any]]:
        with torch.device("meta"):
            student = Student(MarConfig(**config["mar"]), HeadConfig(**config["head"]))
        saved = load_file(Path(folder) / _FILES[weights], device=str(device))
        for former, current in _FORMER_NAMES.items():
            saved = {re.sub(rf"^mar\.{former}", f"mar.{current}", name): tensor for name, tensor in saved.items()}
        student.load_state_dict(saved, assign=True)
        return student.eval(), config["info"]

    return _load(Path(folder), load)


def load_info(folder: Path) -> dict[str, Any]:
    """Return a student's `info`. Raises StudentError as `load_student`."""
    return _load(Path(folder), lambda config: dict(config["info"]))


def load_few_step(folder: Path, device: torch.device | str = "cpu") -> FewStepStudent | None:
    """Load the few-step student that was saved with a student, in evaluation mode; None where there is none.

    Raises:
        StudentError: as `load_student`.
    """

    def load(config: dict[str, Any]) -> FewStepStudent | None:
        if FEW_STEP not in config:
            return None
        with torch.device("meta"):
            student = FewStepStudent(MarConfig(**config["mar"]), FewStepConfig(**config[FEW_STEP]))
        student.load_state_dict(load_file(Path(folder) / f"{FEW_STEP}.safetensors", device=str(device)), assign=True)
        return student.eval()

    return _load(Path(folder), load)


def _load(folder: Path, load: Callable[[dict[str, Any]], Loaded]) -> Loaded:
    """Return what `load` makes of a verified folder's configuration. Raises StudentError."""
    if not (folder / "config.json").is_file():
        raise StudentError(f"{folder} holds no student (no config.json); give a folder such as STORE/report/KEY/model")
    try:
        verify_folder(folder)
        config = json.loads((folder / "config.json").read_bytes())
        if config["format"] != FORMAT:
            raise StudentError(f"{folder} has format {config['format']}; this version reads {FORMAT}")
        return load(config)
    except DamagedFolderError as error:
        raise StudentError(f"damaged student: {error}; copy it again, or run the stage that made it again") from error
    except (KeyError, ValidationError, RuntimeError, SafetensorError, FileNotFoundError) as error:
        raise StudentError(f"{folder} holds a student that does not fit its config.json: {error}") from error
