"""A finished student on disk: `config.json`, `model.safetensors` (raw weights) and `ema.safetensors` (averaged)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.atomic_folder import DamagedFolderError, verify_folder, write_folder
from lightgen_core.model.mar import Student

FORMAT = 1
_FILES = {"raw": "model.safetensors", "ema": "ema.safetensors"}
_FORMER_NAMES = {"null_word": "null_text", "reader_": "cross_", r"reader\.": "cross_blocks."}
"""Beginnings of parameter names in `mar` of earlier versions, and of today."""


class StudentError(ValueError):
    """A folder that does not hold a student this version can load."""


def save_student(folder: Path, student: Student, ema: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write or replace a student, whole or not at all; equal students give equal bytes.

    Args:
        student: its own weights are the raw ones.
        ema: the averaged weights, a complete state dict.
        info: plain JSON for a sampler (patch, grid, codec, text encoder, sampler defaults).

    Raises:
        StudentError: `ema` is of another student.
    """
    raw = student.state_dict()
    if ema.keys() != raw.keys():
        raise StudentError(f"averaged weights do not match the student's: {sorted(ema.keys() ^ raw.keys())[:5]}")
    config = {
        "format": FORMAT,
        "mar": student.mar.config.model_dump(mode="json"),
        "head": student.head.config.model_dump(mode="json"),
        "info": dict(info),
    }
    write_folder(Path(folder), {"model": raw, "ema": ema}, {"config": config})


def load_student(
    folder: Path, weights: Literal["ema", "raw"] = "ema", device: torch.device | str = "cpu"
) -> tuple[Student, dict[str, Any]]:
    """Load a student in evaluation mode. Return it with its `info`.

    Raises:
        StudentError: no student there, a damaged file, another format, or weights that do not fit the configuration.
    """
    folder = Path(folder)
    if weights not in _FILES:
        raise StudentError(f"weights {weights!r} are unknown; choose ema or raw")
    if not (folder / "config.json").is_file():
        raise StudentError(f"{folder} holds no student (no config.json); give a folder such as STORE/report/KEY/model")
    try:
        verify_folder(folder)
        config = json.loads((folder / "config.json").read_bytes())
        if config["format"] != FORMAT:
            raise StudentError(f"{folder} has format {config['format']}; this version reads {FORMAT}")
        with torch.device("meta"):
            student = Student(MarConfig(**config["mar"]), HeadConfig(**config["head"]))
        saved = load_file(folder / _FILES[weights], device=str(device))
        for former, current in _FORMER_NAMES.items():
            saved = {re.sub(rf"^mar\.{former}", f"mar.{current}", name): tensor for name, tensor in saved.items()}
        student.load_state_dict(saved, assign=True)
    except DamagedFolderError as error:
        raise StudentError(f"damaged student: {error}; copy it again, or run the stage that made it again") from error
    except (KeyError, ValidationError, RuntimeError, SafetensorError) as error:
        raise StudentError(f"{folder} holds a student that does not fit its config.json: {error}") from error
    return student.eval(), config["info"]
