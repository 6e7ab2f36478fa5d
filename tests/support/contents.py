"""Contents of artifacts and folders, to be compared."""

from pathlib import Path

from storage.artifact import Artifact
from storage.hash_cache import hash_stream


def contents(artifact: Artifact) -> dict[str, str]:
    """Return the hash of each file of an artifact, by its name."""
    return {name: hash_stream(artifact.open(name)) for name in artifact.names()}


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file in a folder, by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
