"""What tells one set of files from another, for artifact keys: a hash of names and bytes, computed once."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 1 << 20


class ContentNotFound(ValueError):
    """A file or folder that a recipe names is not there."""


def content_digest(path: Path, memory: Path) -> str:
    """Return the sha256 over names and bytes of a file, or of all regular files of a folder.

    Bytes are read once: the digest is remembered under what the file system says of the files (name, size, time of
    change, inode), and read again when any of that has changed. Links are hashed as links.

    Args:
        path: file or folder.
        memory: folder of the memory; losing it costs one more reading.

    Raises:
        ContentNotFound: there is nothing at the path.
    """
    if not path.exists():
        raise ContentNotFound(f"there is no {path}, which the recipe names; correct the path, or put the files there")
    seen = hashlib.sha256(str(path.resolve()).encode())
    for name, file in _files(path):
        about = file.lstat()
        seen.update(b"%b\0%d\0%d\0%d\0" % (name, about.st_size, about.st_ctime_ns, about.st_ino))
    remembered = memory / seen.hexdigest()
    if remembered.is_file():
        return remembered.read_text()
    found = _digest(path)
    memory.mkdir(parents=True, exist_ok=True)
    partial = remembered.with_suffix(".partial")
    partial.write_text(found)
    partial.replace(remembered)
    return found


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for name, file in _files(path):
        total.update(b"%b\0%d\0" % (name, file.lstat().st_size))
        if file.is_symlink():
            total.update(bytes(file.readlink()))
        elif file.is_file():  # a pipe or a device has no content to speak of
            with file.open("rb") as opened:
                while block := opened.read(_BLOCK):
                    total.update(block)
    return total.hexdigest()


def _files(path: Path) -> Iterator[tuple[bytes, Path]]:
    """Yield what is in a folder and not a folder, with its relative name, sorted; a file is all there is of itself."""
    if path.is_file():
        yield b"", path
        return
    found = {bytes(file.relative_to(path)): file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()}
    yield from sorted(found.items())
