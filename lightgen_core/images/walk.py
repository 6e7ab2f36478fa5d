"""The files below a folder, through links."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[Path]:
    """Yield everything below a folder but folders, in no order; a link to a folder is yielded, and may be entered.

    It is entered if it leads out of `root`, once for each target, and not to a folder that holds `root`.
    """
    top = os.path.realpath(root)
    entered: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        links = {name: os.path.realpath(Path(folder, name)) for name in folders if Path(folder, name).is_symlink()}
        yield from (Path(folder, name) for name in (*names, *links))
        for name, target in links.items():
            if target in entered or os.path.commonpath([top, target]) in (top, target):
                folders.remove(name)
            entered.add(target)


def find_files(root: Path, *suffixes: str) -> list[Path]:
    """Return the file itself, or the files below a folder with one of the suffixes, in any case, sorted."""
    if root.is_file():
        return [root]
    return sorted(path for path in walk(root) if path.name.lower().endswith(suffixes) and path.is_file())
