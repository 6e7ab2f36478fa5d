"""Where a frozen component lies, and the hash of its weights, without loading it. Torch-free."""

import hashlib
from functools import lru_cache
from pathlib import Path

PREFIX = "zoo:"
FOLDER = Path(__file__).parent


def resolve(reference: str) -> str:
    """Return the folder of a packaged component ("zoo:clip"); any other reference unchanged.

    Raises:
        FileNotFoundError: the zoo has no such component.
    """
    if not reference.startswith(PREFIX):
        return reference
    folder = FOLDER / reference.removeprefix(PREFIX)
    if not (folder.is_dir() and any(folder.glob("*.json"))):
        known = ", ".join(sorted(f"{PREFIX}{path.parent.name}" for path in FOLDER.glob("*/*.safetensors")))
        raise FileNotFoundError(f"the zoo has no component {reference!r}; it has {known}")
    return str(folder)


@lru_cache(maxsize=64)
def digest(reference: str) -> str | None:
    """Return the sha256 over a folder's file names and bytes; None for what is on a hub, whose revision tells.

    It enters the key of every artifact that the component has a part in.
    """
    folder = Path(resolve(reference))
    if not folder.is_dir():
        return None
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()
