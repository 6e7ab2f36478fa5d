"""Holds a program, or whatever it starts, where it gives a file its name, so that a test can act meanwhile."""

from dataclasses import dataclass
from pathlib import Path

HOOK = """
import os, sys, time

def hook(event, given):
    while event == "os.rename" and str(given[1]).endswith({name!r}) and os.path.exists({flag!r}):
        time.sleep(0.02)

sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Hold:
    """flag: while this file is there, nothing that finds the hook by its PYTHONPATH names a file as told."""

    path: str
    flag: Path


def hold_at(folder: Path, name: str) -> Hold:
    """Write the hook into an empty folder, for files whose path ends so. Nothing is held before `flag.touch()`."""
    (folder / "sitecustomize.py").write_text(HOOK.format(name=name, flag=str(folder / "flag")))
    return Hold(str(folder), folder / "flag")
