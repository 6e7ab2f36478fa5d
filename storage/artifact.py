"""An artifact: `<store>/<stage>/<key>/` with its files and, written last, its manifest.

How two machines may make one artifact at once in a store without locks, and none spoils what the other has finished:

1. A file is written once and never over another one. Where its name is taken, by bytes that are not the same, it goes
   to a place beside it. Only then does its record say that it is whole, and where; records may replace each other.
2. The manifest is written only if there is none. The first is the artifact; whoever comes second takes that.
3. What the manifest does not name is swept away after it was written, never before.

So whatever a manifest names is there and stays: nothing is removed from an unfinished artifact, and of a finished one
only what is not part of it. The exceptions: `remove`, asked for by a person, and the manifest of a damaged artifact.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from pydantic import ValidationError

from storage.base import Content, Found
from storage.integrity import faults, forget, sha256, trust
from storage.local_cache import fetch, name_of_making, note_use, sha256_of
from storage.manifest import MANIFEST, FileEntry, Manifest
from storage.plural import counted
from storage.records import read_records, write_record
from storage.store import Store

PROGRESS = "_progress"
"""Folder inside an unfinished artifact: one record for each finished file, and the scratch space of the maker."""

_NOTHING = Found(-1, "")

State = Literal["done", "missing", "partial", "damaged"]


class DamagedArtifact(Exception):
    """A file of an artifact is missing or does not hold what the manifest says."""


class FinishedElsewhere(Exception):
    """Another machine has finished the artifact that this one was making; its files are the artifact now."""


@dataclass(frozen=True)
class Check:
    """What was found at an artifact's place."""

    state: State
    why: str


class Artifact:
    """The artifact of one stage and key in a store: a place, whether or not anything is there yet."""

    def __init__(self, store: Store, stage: str, key: str) -> None:
        self.store, self.stage, self.key = store, stage, key
        self.path = f"{stage}/{key}"
        self._entries: dict[str, FileEntry] = {}

    def __repr__(self) -> str:
        return f"Artifact({self.uri!r})"

    @property
    def uri(self) -> str:
        """Address of the artifact's folder."""
        return self.store.uri_of(self.path)

    def uri_of(self, name: str) -> str:
        """Return the address of one file."""
        return self.store.uri_of(self._path(name))

    def manifest(self) -> Manifest:
        """Return the manifest. Raises DamagedArtifact if it is not there or not one."""
        try:
            manifest = Manifest.model_validate_json(self.store.read(f"{self.path}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise DamagedArtifact(f"{self.uri} has no {MANIFEST}: it was never finished") from error
        except ValidationError as error:
            raise DamagedArtifact(f"{self.uri}/{MANIFEST} is not a manifest: {error.errors()[0]['msg']}") from error
        self._entries = {entry.name: entry for entry in manifest.files}
        return manifest

    def finished(self) -> bool:
        """Tell whether there is a manifest, sound or not."""
        return self.store.exists(f"{self.path}/{MANIFEST}")

    def names(self, pattern: str = "") -> list[str]:
        """Return the names of the artifact's files that match a regular expression, in the manifest's order."""
        return [file.name for file in self.manifest().files if re.search(pattern, file.name)]

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading."""
        return self._open(self._path(name))

    def _open(self, path: str) -> BinaryIO:
        try:
            return self.store.open(path)
        except FileNotFoundError as error:
            raise self.meddled_with(path.removeprefix(f"{self.path}/")) from error

    def _path(self, name: str) -> str:
        """Return where in the store a file lies."""
        if self.store.locks:  # nobody else writes: each file has its own name
            return f"{self.path}/{name}"
        if name not in self._entries and not self.finished():
            self._entries = self._records()
        elif name not in self._entries:
            self.manifest()
        entry = self._entries.get(name)
        return f"{self.path}/{entry.path if entry else name}"

    def local(self, name: str, scratch: Path) -> Path:
        """Return a path on this machine that holds a finished file: itself in a local store, else a copy in `scratch`.

        A copy is compared with the manifest's hash when it is made. Files of one making are copied to one folder, those
        of another making of the same key to another one. Those that nobody asked for in 30 days are removed.

        Raises:
            DamagedArtifact: the artifact has no such file, or the copy does not hold what the manifest says.
        """
        here = self.store.local_path(f"{self.path}/{name}")
        if here is not None:
            return here
        if name not in self._entries:
            self.manifest()
        if name not in self._entries:
            raise DamagedArtifact(f"{self.uri} has no file {name}")
        entry = self._entries[name]
        making = scratch / self.stage / f"{self.key}-{name_of_making(self._entries.values())}"
        copy = making / name
        if not copy.exists() and not fetch(self.store, f"{self.path}/{entry.path}", entry.sha256, copy):
            raise DamagedArtifact(f"{self.uri}/{entry.path} is gone, or did not come as it was written; run again")
        note_use(making)
        return copy

    def check(self, *, rehash: bool = False, sizes_only: bool = False) -> Check:
        """Say whether the artifact can be used: every file must be there with the size and hash of the manifest.

        Args:
            rehash: compute every hash again, also of files that have not changed since the last time.
        """
        try:
            manifest = self.manifest()
        except DamagedArtifact as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                return Check("damaged", str(error))
            if finished := self._records():
                return Check("partial", f"{counted(len(finished), 'finished file')} of an interrupted run")
            if self.store.locks and self.store.folders(f"{self.path}/{PROGRESS}/scratch"):
                return Check("partial", "unfinished work of an interrupted run")
            return Check("missing", "never made")
        if found := faults(self.store, self.path, manifest.files, rehash=rehash, sizes_only=sizes_only):
            return Check("damaged", next(iter(found.values())))
        return Check("done", manifest.extent)

    def sha256(self, name: str) -> str:
        """Return the hash of a file's present content."""
        with self.open(name) as file:
            return sha256(file)

    def records(self) -> dict[str, FileEntry]:
        """Return what an unfinished run has finished so far: one entry for each whole file.

        Raises:
            FinishedElsewhere: there is a manifest; records count no longer, and may be gone.
        """
        self._entries = self._records()
        if not self.store.locks and self.finished():  # asked last: the manifest comes before records go
            raise self._finished_elsewhere()
        return dict(self._entries)

    def whole(self) -> set[str]:
        """Return the names of the files that an unfinished run has finished and that are still as it wrote them.

        What lies in a store without locks was checked when it arrived there, and is as whole as its size says: to fetch
        all that is finished would take as long as the stage has taken. Raises FinishedElsewhere as `records` does.
        """
        records = self.records()
        return records.keys() - faults(self.store, self.path, records.values(), sizes_only=not self.store.locks).keys()

    def _records(self) -> dict[str, FileEntry]:
        return read_records(self.store, f"{self.path}/{PROGRESS}/files")

    def _finished_elsewhere(self) -> FinishedElsewhere:
        self._entries = {}
        return FinishedElsewhere(f"another machine has finished {self.uri}")

    def reopen(self) -> None:
        """Turn a damaged artifact back into an unfinished one: what is whole stays, the rest is made again.

        The records are written before the manifest goes, so that a kill in between loses nothing. Nothing happens where
        another run has mended it.
        """
        try:
            manifest = self.manifest()
        except DamagedArtifact as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                self._forget()
            return
        if found := faults(self.store, self.path, manifest.files):
            for entry in manifest.files:
                if entry.name not in found:
                    self.record(entry)
            self._forget()

    def _forget(self) -> None:
        self._entries = {}
        self.store.remove(f"{self.path}/{MANIFEST}")

    def add(self, name: str, data: bytes, rows: int, counts: Mapping[str, int]) -> None:
        """Write a file of an unfinished artifact, and then the record that it is whole.

        Raises:
            FinishedElsewhere: there is a manifest already.
        """
        entry = FileEntry(name=name, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), counts=counts)
        self._add(entry, data)

    def add_file(self, name: str, source: Path) -> None:
        """Copy a local file of any size into an unfinished artifact, and then record it; raises as `add`."""
        self._add(FileEntry(name=name, rows=0, bytes=source.stat().st_size, sha256=sha256_of(source)), source)

    def _add(self, entry: FileEntry, content: Content) -> None:
        path = f"{self.path}/{entry.name}"
        if self.store.locks:
            self.store.write(path, content)
        elif not self.store.create(path, content):
            if self.finished():
                raise self._finished_elsewhere()
            with self._open(path) as file:
                differs = sha256(file) != entry.sha256
            if differs:  # of another run, or damaged
                name = PurePosixPath(entry.name)
                place = str(name.with_name(f"{name.stem}~{uuid.uuid4().hex[:12]}{name.suffix}"))
                self.store.write(f"{self.path}/{place}", content)
                entry = entry.model_copy(update={"stored_as": place})
        self.record(entry)

    def record(self, entry: FileEntry) -> None:
        """Write down that a file of an unfinished artifact is whole."""
        write_record(self.store, f"{self.path}/{PROGRESS}/files", entry)
        self._entries[entry.name] = entry

    def meddled_with(self, name: str) -> DamagedArtifact:
        """Return the error that a file is not there which was."""
        return DamagedArtifact(
            f"{self.uri}/{name} was written and is gone or changed: another run has removed or refreshed this "
            "artifact meanwhile. Run the same command again, one at a time."
        )

    def remove(self) -> None:
        """Remove the artifact; the manifest goes first, so that a kill half-way leaves nothing that looks done.

        Nobody else may be making it meanwhile.
        """
        self._forget()
        self.store.remove(self.path)
        forget(self.store, self.path)

    def commit(self, manifest: Manifest) -> bool:
        """Mark the artifact as done, unless another machine did so before; return whether this one did.

        Then sweep away what is not part of it: records, torsos of killed writes, files of makers that came second.

        Raises:
            DamagedArtifact: a file that the manifest names is not there.
        """
        there = self.store.scan(self.path)
        gone = [file.path for file in manifest.files if there.get(file.path, _NOTHING).size != file.bytes]
        if gone and not self.finished():
            raise self.meddled_with(gone[0])
        body: dict[str, Any] = json.loads(manifest.model_dump_json())
        text = (json.dumps(body, indent=1) + "\n").encode()
        place = f"{self.path}/{MANIFEST}"
        # where an answer is lost on its way, the write is sent again, and meets itself
        if gone or not (self.store.create(place, text) or self.store.read(place) == text):
            self._entries = {}
            self.tidy()
            return False
        if not self.store.locks:  # written once, and compared with a checksum there: to hash it is to fetch all of it
            trust(self.store, self.path, manifest.files, there)
        self._sweep(manifest.files)
        return True

    def tidy(self) -> None:
        """Remove from a finished artifact what is not part of it; a kill right after the manifest can leave such."""
        self._sweep(self.manifest().files)

    def _sweep(self, files: Iterable[FileEntry]) -> None:
        self.store.keep_only(self.path, {entry.path for entry in files} | {MANIFEST})
