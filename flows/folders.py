"""Checks of a command's folders, before torch is loaded."""

import json
import tempfile
from pathlib import Path
from typing import Any

from flows.errors import UserError


def student_config(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of a folder's student; None if it holds none."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and {"mar", "head", "info"} <= config.keys() else None


def require_student(folder: Path) -> None:
    """Raise UserError if a folder holds no student; name a subfolder that does, if there is one."""
    if student_config(folder) is not None:
        return
    why = "its config.json is not a student's" if (folder / "config.json").exists() else "no config.json"
    if not folder.is_dir():
        why = "there is no such folder"
    inside = [folder / name for name in ("model", "student") if student_config(folder / name) is not None]
    hint = f"did you mean {inside[0]}?" if inside else "give a folder such as STORE/report/KEY/model"
    raise UserError(f"{folder} holds no student ({why}); {hint}")


def require_writable(folder: Path) -> None:
    """Create a folder if missing. Raises UserError if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"nothing can be written to {folder}: {error.strerror}; -o names another place") from error
