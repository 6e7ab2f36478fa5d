"""Locations of data in recipes: a path of this machine, an address, or a data set of the Hugging Face hub.

    data/cats, ~/cats.tar            a folder or file of this machine; a zip archive counts as the folder that it holds
    s3://bucket/cats                 any file system that fsspec knows; its credentials come from the environment
    zoo:emoji                        emoji by four artists, built on this machine from packages (`emoji/`)
    org/name, org/name@revision      a data set of the hub; without a revision what its main branch holds on the day
    hf://datasets/org/name@revision/folder    the same, or one of its folders

A hub data set is read at one commit: in place, or, where `HF_HUB_OFFLINE` is set, from the hub's cache on this machine.
"""

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lightgen_core.images.files import Files, LocalFiles
from lightgen_core.images.remote_files import RemoteFiles
from lightgen_core.images.zip_files import SUFFIX, ZipFiles

TIMEOUT_SECONDS = 30.0
"""Wait for the hub's answer to which commit a revision is."""
ZOO = "zoo:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_HUB_ADDRESS = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>.*))?")
_FILE = re.compile(r"\.(txt|csv|tsv|jsonl?|ndjson|parquet|arrow|tar|tgz|gz|zst|zip)$", re.IGNORECASE)
_PACKAGES = {
    "s3": "'lightgen[s3]'",
    "s3a": "'lightgen[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}


class LocationError(ValueError):
    """A location at which nothing is, or that cannot be reached."""


@dataclass(frozen=True)
class HubDataset:
    """A data set of the hub, perhaps one folder of it."""

    name: str
    revision: str | None = None
    folder: str = ""

    def commit(self) -> str:
        """Return the commit of the revision. Raises LocationError."""
        if re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            return str(self.revision)
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        if HF_HUB_OFFLINE:
            return self.snapshot().name
        try:
            return str(HfApi().dataset_info(self.name, revision=self.revision, timeout=TIMEOUT_SECONDS).sha)
        except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise LocationError(
                f"there is no {self.name} on this machine, and the hub gives no data set of that name: {reason}\n"
                f"Correct the path or the name; a private or gated set needs HF_TOKEN."
            ) from error

    def snapshot(self) -> Path:
        """Return the folder of the hub's cache that holds the revision. Raises LocationError."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        try:
            folder = snapshot_download(self.name, repo_type="dataset", revision=self.revision, local_files_only=True)
        except (HFValidationError, OSError, ValueError) as error:
            raise LocationError(
                f"there is no {self.name} on this machine, neither as a path nor in the hub's cache, and "
                f"HF_HUB_OFFLINE is set. On a machine with access: hf download {self.name} --repo-type dataset"
            ) from error
        return Path(folder)

    def files(self) -> Files:
        """Open the files at the commit."""
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE:
            return LocalFiles(self.snapshot() / self.folder)
        return open_address(f"hf://datasets/{self.name}@{self.commit()}/{self.folder}".rstrip("/"))


def parse_hub(location: str) -> HubDataset | None:
    """Return the data set of the hub that a location names; None if it is a path or another address."""
    if found := _HUB_ADDRESS.fullmatch(location):
        return HubDataset(found["name"], found["revision"], (found["folder"] or "").strip("/"))
    if "://" in location or Path(location).expanduser().exists() or not _HUB_ID.fullmatch(location):
        return None
    name, _, revision = location.partition("@")
    return None if _FILE.search(name) else HubDataset(name, revision or None)


def open_files(location: str | Path) -> Files:
    """Open the files at a location. Raises LocationError."""
    text = local_path(os.fspath(location))
    if hub := parse_hub(text):
        return hub.files()
    if "://" in text:
        return open_address(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return LocalFiles(path)
    if not path.exists():
        raise LocationError(f"there is no {path}; check the path on this machine")
    return _open_zip(str(path), text) if path.suffix.lower() == SUFFIX else LocalFiles(path.parent, path.name)


def _open_zip(archive: str | BinaryIO, address: str) -> Files:
    try:
        return ZipFiles.open_archive(archive, address)
    except (zipfile.BadZipFile, EOFError) as error:
        raise LocationError(f"{address} is no zip archive, or was cut: {error}. Copy it again") from error


def local_path(location: str) -> str:
    """Return a location with a zoo's set replaced by the path at which it is built; LocationError if it cannot be."""
    if not location.startswith(ZOO):
        return location
    from lightgen_core.emoji.build import built_set
    from lightgen_core.emoji.packages import PackagesUnavailable

    try:
        return str(built_set(location.removeprefix(ZOO)))
    except (PackagesUnavailable, KeyError) as error:
        raise LocationError(f"{location}: {error.args[0]}") from error


def open_address(address: str) -> Files:
    """Open the files at an address with a protocol. Raises LocationError."""
    from fsspec.core import url_to_fs

    protocol = address.partition("://")[0]
    try:
        # A new instance, since fsspec keeps the listings of former ones.
        fs, path = url_to_fs(address, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        hint = f"; pip install {_PACKAGES[protocol]}" if protocol in _PACKAGES else ""
        raise LocationError(f"{address} cannot be opened: {error}{hint}") from error
    if protocol == "file":
        return open_files(path)
    try:
        if fs.isdir(path):
            return RemoteFiles(fs, path.rstrip("/"), address.rstrip("/"))
        if fs.isfile(path) and path.lower().endswith(SUFFIX):
            return _open_zip(fs.open(path), address)
        if fs.isfile(path):
            folder, _, name = path.rpartition("/")
            return RemoteFiles(fs, folder, address.rpartition("/")[0], name)
    except LocationError:
        raise
    except Exception as error:  # of whichever client the protocol has
        raise LocationError(f"{address} cannot be reached: {type(error).__name__}: {error}") from error
    raise LocationError(f"there is nothing at {address}; check the address, and that its credentials may list it")
