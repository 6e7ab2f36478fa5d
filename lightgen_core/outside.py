"""Files that a recipe names and the store does not hold: found, and told apart in artifact keys. Free of torch."""

import hashlib
from pathlib import Path


class OutsideFileNotFound(ValueError):
    """A recipe names a file or folder that is not on this machine."""


def files_of(path: str, pattern: str = "*") -> list[Path]:
    """The file at a path, or those below a folder whose name matches, without hidden ones, in the order of their paths.

    Raises:
        OutsideFileNotFound: there is none.
    """
    top = Path(path).expanduser()
    if top.is_file():
        return [top]
    found = sorted(file for file in top.rglob(pattern) if file.is_file() and not file.name.startswith("."))
    if not found:
        what = f"no file {pattern} in it" if top.is_dir() else "nothing there"
        raise OutsideFileNotFound(f"the recipe names {path!r}, but there is {what}; check the path on this machine")
    return found


def content_digest(path: str) -> str:
    """sha256 over the names and contents of a file or a folder: the same content elsewhere has the same digest.

    Raises:
        OutsideFileNotFound: nothing is there.
    """
    top = Path(path).expanduser()
    total = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{'' if file == top else file.relative_to(top).as_posix()}\0{content}\0".encode())
    return total.hexdigest()
