"""What tells a model's weights from any other's, for artifact keys. Free of torch.

Hashing 20 GB takes the better part of a minute, and every plan asks for it. So the hash of a large file is remembered
together with the file's fingerprint (size, time, inode), as version control's index does.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from lightgen_core.references import parse
from lightgen_core.zoo.paths import ModelNotFound

WEIGHTS = "*.safetensors"
_BESIDE = ("*.json", "*.txt", "*.model")
"""Configuration and vocabulary: they decide what the weights do."""
_REMEMBERED = 16 << 20
"""Smallest file whose hash is remembered, bytes; smaller ones are hashed in hundredths of a second."""
_SETTLED = 2.0
"""Seconds after its last change from which a file's fingerprint is trusted: clocks of file systems are coarse."""


def digest(reference: str) -> str | None:
    """The digest of a model's files; None for a hub model or an open_clip tag, whose name says all that is known.

    A folder, the zoo's among them: over the names and contents of its weights (safetensors), configuration and
    vocabulary, so the same model in another place has the same digest. A file of weights: over its content.

    Raises:
        ModelNotFound: a folder without weights, or nothing at a path.
    """
    path = parse(reference).path
    if path is None:
        return None
    if path.is_file():
        return _sha256(path)
    weights = sorted(found for found in path.rglob(WEIGHTS) if found.is_file())
    if not weights:
        raise ModelNotFound(f"{path} holds no {WEIGHTS}; give the folder that save_pretrained wrote")
    total = hashlib.sha256()
    for found in sorted({*weights, *(found for pattern in _BESIDE for found in path.rglob(pattern))}):
        total.update(f"{found.relative_to(path).as_posix()}\0{_sha256(found)}\0".encode())
    return total.hexdigest()


def _sha256(path: Path) -> str:
    """A file's hash: remembered for this very version of a large file, else computed."""
    before = _fingerprint(path)
    if before["size"] < _REMEMBERED:
        return _hashed(path)
    memory = _memory_of(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a memory that is lost costs one more hash
        known = json.loads(memory.read_text())
        if known["fingerprint"] == before:
            return known["sha256"]
    sha256 = _hashed(path)
    settled = time.time() - before["mtime_ns"] / 1e9 > _SETTLED
    if settled and _fingerprint(path) == before:
        with contextlib.suppress(OSError):  # a cache folder that cannot be written costs time, nothing else
            memory.parent.mkdir(parents=True, exist_ok=True)
            partial = memory.with_suffix(f".{uuid.uuid4().hex}.partial")
            partial.write_text(json.dumps({"path": str(path), "fingerprint": before, "sha256": sha256}))
            partial.replace(memory)
    return sha256


def _fingerprint(path: Path) -> dict[str, int]:
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
    }


def _memory_of(path: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "lightgen" / "digests" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
