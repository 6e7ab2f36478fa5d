"""What tells a model, or a set of files, from any other, for artifact keys: which files count. Free of torch."""

import os
from pathlib import Path

from lightgen_core.encoders.model_ref import ModelNotFound, parse_model_ref
from storage.hash_cache import digest_of, sha256_of

WEIGHTS = "*.safetensors"
_BESIDE = ("*.json", "*.txt", "*.model")
"""Configuration and vocabulary: they decide what the weights do."""


class ContentNotFound(ValueError):
    """A file or folder that a recipe names is not there."""


def content_digest(path: Path) -> str:
    """Return the digest of a file's content, or of the names and contents of all that lies in a folder.

    A link to a file counts with the content that it leads to, and as a link: some readers do not follow it. What
    cannot be read, and what has no content to speak of, such as a pipe, counts with its name.

    Raises:
        ContentNotFound: there is nothing at the path.
    """
    if path.is_file():
        return sha256_of(path)
    if not path.exists():
        raise ContentNotFound(f"there is no {path}, which the recipe names; correct the path, or put the files there")
    files: dict[bytes, Path | None] = {}
    for found in path.rglob("*"):
        link = found.is_symlink()
        if link or not found.is_dir():
            name = bytes(found.relative_to(path)) + (b"\0link" if link else b"")
            files[name] = found if found.is_file() and os.access(found, os.R_OK) else None
    return digest_of(files)


def weights_digest(reference: str) -> str | None:
    """Return the digest of a model's files; None for a hub model or an open_clip tag: its name says all that is known.

    A folder, the zoo's among them: over the names and contents of its weights (safetensors), configuration and
    vocabulary. A file of weights: over its content.

    Raises:
        ModelNotFound: a folder without weights, or nothing at a path.
    """
    path = parse_model_ref(reference).path
    if path is None:
        return None
    if path.is_file():
        return sha256_of(path)
    weights = [found for found in path.rglob(WEIGHTS) if found.is_file()]
    if not weights:
        raise ModelNotFound(f"{path} holds no {WEIGHTS}; give the folder that save_pretrained wrote")
    beside = [found for pattern in _BESIDE for found in path.rglob(pattern) if found.is_file()]
    return digest_of({bytes(found.relative_to(path)): found for found in weights + beside})
