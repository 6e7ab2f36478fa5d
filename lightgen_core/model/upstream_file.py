"""Reading released checkpoints from disk: untrusted files, of which only tensors are taken."""

import argparse
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from lightgen_core.model.upstream import UpstreamError

Kind = Literal["raw", "ema"]
_KEYS: dict[Kind, str] = {"raw": "model", "ema": "model_ema"}
_UNREADABLE = (
    *(pickle.UnpicklingError, safetensors.SafetensorError, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
)
"""Errors of the readers on damaged or hostile files, collected by damaging files at random."""


def read_kinds(path: Path) -> dict[Kind, dict[str, Tensor]]:
    """Read all weights of a released .pth or .safetensors file; a bare state dict stands for raw and averaged ones.

    Never runs code from the file. Raises FileNotFoundError, and UpstreamError for a file that holds no state dict.
    """
    content = _content(path)
    if not isinstance(content, dict) or "model" not in content:
        bare = _state_dict(content, path)
        return {"raw": bare, "ema": bare}
    return {kind: _state_dict(content[key], path) for kind, key in _KEYS.items() if content.get(key) is not None}


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UpstreamError(f"{path} holds no state dict: expected tensors by name, or model and model_ema of such")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _content(path: Path) -> Any:
    """Read a file's content without running code from it."""
    with path.open("rb"):
        pass  # that it is not there, or not ours to read, is not a damage
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # A released checkpoint holds its command line beside the weights, and an optimizer's state that nobody reads
        # here: mapped instead of read, it costs no memory.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        raise UpstreamError(f"{path} cannot be read safely: {_why_unreadable(error)}") from error


def _why_unreadable(error: Exception) -> str:
    """Summarise an error without torch's advice to read the file unsafely."""
    message = str(error)
    if called := re.search(r"GLOBAL ([\w.]+)", message):
        return f"it holds {called[1]}, which is no tensor and could run code. Save its weights alone, and import those"
    if "weights_only" in message or not message or isinstance(error, LookupError):  # of a pickle's opcode or memo
        return "its pickle is damaged or of another kind. Fetch the file again"
    return f"neither .pth nor .safetensors can be made of it ({message.splitlines()[0]}). Is it cut? Fetch it again"
