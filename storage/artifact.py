"""An artifact: `<store>/<stage>/<key>/` with its files and, written last, its manifest.

Two machines may make one artifact at once in a store without locks, and neither spoils what the other has finished:

1. A file is written once and never overwritten. If its name is taken by other bytes, it is written beside that file.
   Only then does its record say that it is complete, and where it is; records may replace each other.
2. The manifest is written only if there is none. The first one is the artifact; the second machine uses that.
3. Files that the manifest does not name are deleted after it was written, never before.

So every file that a manifest names exists and stays: nothing is removed from an unfinished artifact, and of a finished
one only what is not part of it. Exceptions: `remove`, on request of a person, and the manifest of a corrupt artifact.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from pydantic import ValidationError

from storage.hash_cache import hash_file, hash_stream
from storage.integrity import cache_path, find_corrupt, mark_verified
from storage.local_cache import fetch, touch_and_evict
from storage.manifest import MANIFEST, FileEntry, Manifest
from storage.plural import pluralize
from storage.records import read_records
from storage.store import Content, FileInfo, Store

PROGRESS = "_progress"
"""Folder inside an unfinished artifact, with records of finished files and scratch space."""

_MISSING = FileInfo(-1, "")

State = Literal["done", "missing", "partial", "damaged"]


class CorruptArtifact(Exception):
    """A file of an artifact is missing or differs from the manifest."""


class AlreadyCommitted(Exception):
    """Another machine has committed the artifact that this one was making."""


@dataclass(frozen=True)
class ArtifactStatus:
    """State of an artifact and the reason for it."""

    state: State
    reason: str


class Artifact:
    """The artifact of one stage and key in a store, whether or not it exists yet.

    `label` names it among the inputs of another: the stage, or one of several artifacts of that stage (`dpo-2`).
    """

    def __init__(self, store: Store, stage: str, key: str, label: str = "") -> None:
        self.store, self.stage, self.key, self.label = store, stage, key, label or stage
        self.path = f"{stage}/{key}"
        self._entries: dict[str, FileEntry] = {}

    def __repr__(self) -> str:
        return f"Artifact({self.uri!r})"

    @property
    def uri(self) -> str:
        """URI of the artifact's folder."""
        return self.store.uri_of(self.path)

    def uri_of(self, name: str) -> str:
        """Return the address of one file."""
        return self.store.uri_of(self._path(name))

    def manifest(self) -> Manifest:
        """Return the manifest. Raises CorruptArtifact if it is missing or invalid."""
        try:
            manifest = Manifest.model_validate_json(self.store.read(f"{self.path}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise CorruptArtifact(f"{self.uri} has no {MANIFEST}: it was never finished") from error
        except ValidationError as error:
            raise CorruptArtifact(f"{self.uri}/{MANIFEST} is not a manifest: {error.errors()[0]['msg']}") from error
        self._entries = {entry.name: entry for entry in manifest.files}
        return manifest

    def is_committed(self) -> bool:
        """Return whether there is a manifest, valid or not."""
        return self.store.exists(f"{self.path}/{MANIFEST}")

    def names(self, pattern: str = "") -> list[str]:
        """Return the names of files that match a regular expression, in manifest order."""
        return [file.name for file in self.manifest().files if re.search(pattern, file.name)]

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading."""
        return self._open(self._path(name))

    def _open(self, path: str) -> BinaryIO:
        try:
            return self.store.open(path)
        except FileNotFoundError as error:
            raise self.missing_file_error(path.removeprefix(f"{self.path}/")) from error

    def _path(self, name: str) -> str:
        """Return a file's path in the store."""
        path = f"{self.path}/{name}"
        if self.store.supports_locking and self.store.exists(path):  # only a copy of a remote store has other names
            return path
        if name not in self._entries:
            if self.is_committed():
                self.manifest()
            else:
                self._entries = self._records()
        entry = self._entries.get(name)
        return f"{self.path}/{entry.path}" if entry else path

    def local(self, name: str, scratch: Path) -> Path:
        """Return a local path of a file: itself in a local store, else a copy in `scratch`.

        A copy is compared with the manifest's hash when it is made. Files of one run are copied to one folder, those of
        another run of the same key to another one. Copies that were not used for 30 days are removed.

        Raises:
            CorruptArtifact: the artifact has no such file, or the copy differs from the manifest.
        """
        root = self.store.local_path(self.path)
        if root is not None:
            return root / self._path(name).removeprefix(f"{self.path}/")
        if name not in self._entries:
            self.manifest()
        if name not in self._entries:
            raise CorruptArtifact(f"{self.uri} has no file {name}")
        entry = self._entries[name]
        hashes = "".join(entry.sha256 for entry in self._entries.values())  # may differ by run, as on two GPUs
        folder = scratch / self.stage / f"{self.key}-{hashlib.sha256(hashes.encode()).hexdigest()[:8]}"
        copy = folder / name
        if not copy.exists() and not fetch(self.store, f"{self.path}/{entry.path}", entry.sha256, copy):
            raise CorruptArtifact(f"{self.uri}/{entry.path} is gone, or did not come as it was written; run again")
        touch_and_evict(folder)
        return copy

    def check(self, *, rehash: bool = False, sizes_only: bool = False) -> ArtifactStatus:
        """Compare every file with its size and hash in the manifest.

        rehash: hash even files that are unchanged since the last time; sizes_only: compare no hashes.
        """
        try:
            manifest = self.manifest()
        except CorruptArtifact as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                return ArtifactStatus("damaged", str(error))
            if finished := self._records():
                return ArtifactStatus("partial", f"{pluralize(len(finished), 'finished file')} of an interrupted run")
            if self.store.supports_locking and self.store.folders(f"{self.path}/{PROGRESS}/scratch"):
                return ArtifactStatus("partial", "unfinished work of an interrupted run")
            return ArtifactStatus("missing", "never made")
        if corrupt := find_corrupt(self.store, self.path, manifest.files, rehash=rehash, sizes_only=sizes_only):
            return ArtifactStatus("damaged", next(iter(corrupt.values())))
        return ArtifactStatus("done", manifest.summary)

    def records(self) -> dict[str, FileEntry]:
        """Return an entry per finished file. Raises AlreadyCommitted if a manifest makes them obsolete."""
        self._entries = self._records()
        if not self.store.supports_locking and self.is_committed():  # checked last: the manifest comes first
            raise self._already_committed()
        return dict(self._entries)

    def intact_files(self) -> set[str]:
        """Return the names of finished files that are unchanged since an unfinished run wrote them.

        In a store without locks files were checked when they arrived there, and only sizes are compared: to fetch all
        of them would take as long as the stage has taken. Raises AlreadyCommitted as `records` does.
        """
        records, sizes_only = self.records(), not self.store.supports_locking
        return records.keys() - find_corrupt(self.store, self.path, records.values(), sizes_only=sizes_only).keys()

    def _records(self) -> dict[str, FileEntry]:
        return read_records(self.store, f"{self.path}/{PROGRESS}/files")

    def _already_committed(self) -> AlreadyCommitted:
        self._entries = {}
        return AlreadyCommitted(f"another machine has finished {self.uri}")

    def uncommit(self) -> None:
        """Turn a corrupt artifact back into an unfinished one that keeps its intact files.

        The records are written before the manifest is removed, so that a kill in between loses nothing. An artifact
        that another run has repaired is left alone.
        """
        try:
            manifest = self.manifest()
        except CorruptArtifact as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self._remove_manifest()
            return
        if corrupt := find_corrupt(self.store, self.path, manifest.files):
            for entry in manifest.files:
                if entry.name not in corrupt:
                    self.record(entry)
            self._remove_manifest()

    def _remove_manifest(self) -> None:
        self._entries = {}
        self.store.remove(f"{self.path}/{MANIFEST}")

    def add(
        self,
        name: str,
        data: bytes,
        rows: int,
        counts: Mapping[str, int],
        *,
        address: str | None = None,
        reused: int = 0,
    ) -> None:
        """Write a file and then its record, see `FileEntry`. Raises AlreadyCommitted if there is a manifest."""
        sha256 = hashlib.sha256(data).hexdigest()
        entry = FileEntry(
            name=name, rows=rows, bytes=len(data), sha256=sha256, counts=counts, address=address, reused=reused
        )
        self._add(entry, data)

    def add_file(self, name: str, source: Path) -> None:
        """Copy a local file of any size into the artifact; see `add`."""
        self._add(FileEntry(name=name, rows=0, bytes=source.stat().st_size, sha256=hash_file(source)), source)

    def take(self, source: "Artifact", entry: FileEntry, name: str) -> bool:
        """Take over an intact file of a finished artifact in the same store; return False if it is gone.

        In a store without locks it gets a path of its own, so that it replaces no other machine's file.
        """
        taken = entry.model_copy(update={"name": name, "stored_as": None, "reused": entry.rows})
        if not self.store.supports_locking:
            taken = _stored_beside(taken)
        try:
            self.store.copy(f"{source.path}/{entry.path}", f"{self.path}/{taken.path}")
        except FileNotFoundError:  # removed since it was checked
            return False
        self.record(taken)
        return True

    def _add(self, entry: FileEntry, content: Content) -> None:
        path = f"{self.path}/{entry.name}"
        if self.store.supports_locking:
            self.store.write(path, content)
        elif not self.store.create(path, content):
            if self.is_committed():
                raise self._already_committed()
            with self._open(path) as file:
                same = hash_stream(file) == entry.sha256
            if not same:  # of another run, or damaged
                entry = _stored_beside(entry)
                self.store.write(f"{self.path}/{entry.path}", content)
        self.record(entry)

    def record(self, entry: FileEntry) -> None:
        """Record that a file of an unfinished artifact is complete."""
        path = f"{self.path}/{PROGRESS}/files/{entry.name}.json"
        self.store.write(path, entry.model_dump_json().encode())
        self._entries[entry.name] = entry

    def missing_file_error(self, name: str) -> CorruptArtifact:
        """Return the error of a file that has disappeared."""
        return CorruptArtifact(
            f"{self.uri}/{name} was written and is gone or changed: another run has removed or refreshed this "
            "artifact meanwhile. Run the same command again, one at a time."
        )

    def remove(self) -> None:
        """Remove the artifact, its manifest first, so that a kill half-way leaves nothing that looks done.

        No other process may be making it.
        """
        self._remove_manifest()
        self.store.remove(self.path)
        self.store.remove(cache_path(self.path))

    def commit(self, manifest: Manifest) -> bool:
        """Write the manifest unless there is one; return whether it was written.

        Then delete what is not part of the artifact: records, interrupted writes, files of runs that came second.

        Raises:
            CorruptArtifact: a file that the manifest names is missing.
        """
        listing = self.store.list_files(self.path)
        missing = [file.path for file in manifest.files if listing.get(file.path, _MISSING).size != file.bytes]
        if missing and not self.is_committed():
            raise self.missing_file_error(missing[0])
        text = (json.dumps(json.loads(manifest.model_dump_json()), indent=1) + "\n").encode()
        path = f"{self.path}/{MANIFEST}"
        # if a response is lost, the write is sent again, and meets itself
        if missing or not (self.store.create(path, text) or self.store.read(path) == text):
            self._entries = {}
            self.prune()
            return False
        if not self.store.supports_locking:  # each upload was compared with a checksum: no need to fetch it all
            mark_verified(self.store, self.path, manifest.files, listing)
        self.prune(manifest)
        return True

    def prune(self, manifest: Manifest | None = None) -> None:
        """Remove what is not part of a finished artifact, left by a kill after the manifest."""
        files = (manifest or self.manifest()).files
        self.store.delete_except(self.path, {entry.path for entry in files} | {MANIFEST})


def _stored_beside(entry: FileEntry) -> FileEntry:
    """Return the entry of a file that lies beside its name, under one that nobody else uses."""
    name = PurePosixPath(entry.name)
    return entry.model_copy(
        update={"stored_as": str(name.with_name(f"{name.stem}~{uuid.uuid4().hex[:12]}{name.suffix}"))}
    )
