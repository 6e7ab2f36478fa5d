"""Folders of tensors that are either whole or not there: written aside, flushed, checksummed, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

CHECKSUMS = "checksums.json"
_PARTIAL = ".partial-"


class DamagedFolderError(RuntimeError):
    """A folder's files are not the ones that were written."""


def write_folder(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], record: Mapping[str, dict]) -> None:
    """Write or replace a folder in one move: safetensors files, JSON files, and `checksums.json` last.

    Another process sees the old folder, or none, until the new one is complete and on the disk. Equal contents give
    equal bytes. tensors, record: by file name without suffix.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f"{_PARTIAL}{folder.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_partial(partial, tensors, record)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)  # it may have filled the disk
        raise OSError(
            error.errno, f"{error.strerror}; could not be written, and what was saved before is kept", str(folder)
        ) from error
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    _sync_directory(folder.parent)


def _write_partial(partial: Path, tensors: Mapping[str, Mapping[str, Tensor]], record: Mapping[str, dict]) -> None:
    partial.mkdir()
    sums = {}

    def write(name: str, data: bytes) -> None:
        write_synced(partial / name, data)
        sums[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    for name, group in tensors.items():
        on_host = {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}
        # One metadata entry only: their order in the file would change from run to run.
        write(f"{name}.safetensors", save(on_host, {"format": "pt"}))
    for name, value in record.items():
        write(f"{name}.json", json_bytes(value))
    write_synced(partial / CHECKSUMS, json_bytes(sums))
    _sync_directory(partial)


def verify_folder(folder: Path) -> None:
    """Raise DamagedFolderError, naming the file, unless every file has its checksum."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_bytes())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in sums.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFolderError(f"{folder / CHECKSUMS} cannot be read: {error}") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise DamagedFolderError(f"{path} is missing")
        if path.stat().st_size != size:
            raise DamagedFolderError(f"{path} has {path.stat().st_size} bytes; {size} were written")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DamagedFolderError(f"{path} has changed since it was written (sha256 differs)")


def json_bytes(value: dict) -> bytes:
    """Return readable and reproducible JSON: indented, keys sorted, one line feed at the end."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(folder: Path) -> None:
    """Wait until the disk has a directory's entries, renames included."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
