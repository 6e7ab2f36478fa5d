"""Content digests of models and files for artifact keys. Free of torch."""

import hashlib
import os
from pathlib import Path

from lightgen_core.encoders.model_ref import ModelNotFound, parse_model_ref
from lightgen_core.images.location import LocationError, local_path, open_address, parse_hub
from lightgen_core.images.remote_files import RemoteFiles
from lightgen_core.images.walk import walk
from storage.hash_cache import digest_of, sha256_of

WEIGHTS = "*.safetensors"
_CONFIGURATION = ("*.json", "*.txt", "*.model")
"""Configuration and vocabulary, which decide what the weights compute."""


class ContentNotFound(ValueError):
    """A file or folder named in a recipe does not exist."""


def content_digest(location: str | Path) -> str:
    """Return the digest of what lies at a location. Raises ContentNotFound.

    Of a file: of its content. Of a folder: of the names and contents of all files that `walk` finds in it. A link to a
    file counts with the content that it leads to, and as a link: some readers do not follow it. A file that cannot be
    read, or has no content, such as a pipe, counts with its name. Of an address: of the names, sizes and checksums
    (S3: ETags) that its file system lists. Of a data set of the hub: its commit.
    """
    try:
        if hub := parse_hub(str(location)):
            return f"{hub.commit()}/{hub.folder}".rstrip("/")
        if "://" in str(location):
            return _remote_digest(str(location))
        local = local_path(str(location))
    except LocationError as error:
        raise ContentNotFound(f"{error}\nThe recipe names it.") from error
    path = Path(local).expanduser()
    if path.is_file():
        return sha256_of(path)
    if not path.exists():
        raise ContentNotFound(f"there is no {path}, which the recipe names; correct the path, or put the files there")
    files: dict[bytes, Path | None] = {}
    for entry in walk(path):
        name = bytes(entry.relative_to(path)) + (b"\0link" if entry.is_symlink() else b"")
        files[name] = entry if entry.is_file() and os.access(entry, os.R_OK) else None
    return digest_of(files)


def _remote_digest(address: str) -> str:
    files = open_address(address)
    if not isinstance(files, RemoteFiles):
        return content_digest(files.root)
    return hashlib.sha256(repr(sorted(files.checksums().items())).encode()).hexdigest()


def weights_digest(reference: str) -> str | None:
    """Return the digest of a model's files; None for a hub model or open_clip tag, which its name identifies.

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
    weights = [file for file in path.rglob(WEIGHTS) if file.is_file()]
    if not weights:
        raise ModelNotFound(f"{path} holds no {WEIGHTS}; give the folder that save_pretrained wrote")
    configuration = [file for pattern in _CONFIGURATION for file in path.rglob(pattern) if file.is_file()]
    return digest_of({bytes(file.relative_to(path)): file for file in weights + configuration})
