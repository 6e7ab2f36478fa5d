"""An artifact: `<store>/<stage>/<key>/` with its files and, written last, its manifest."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import ValidationError

from storage.manifest import MANIFEST, FileEntry, Manifest
from storage.store import Store

PROGRESS = "_progress"
"""Folder inside an unfinished artifact: one record for each finished file, and the scratch space of the maker."""

State = Literal["done", "missing", "partial", "damaged"]


class DamagedArtifact(Exception):
    """A file of an artifact is missing or does not hold what the manifest says."""


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

    def __repr__(self) -> str:
        return f"Artifact({self.uri!r})"

    @property
    def uri(self) -> str:
        """Address of the artifact's folder."""
        return self.store.uri_of(self.path)

    def manifest(self) -> Manifest:
        """Return the manifest. Raises DamagedArtifact if it is not there or not one."""
        try:
            return Manifest.model_validate_json(self.store.read(f"{self.path}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise DamagedArtifact(f"{self.uri} has no {MANIFEST}: it was never finished") from error
        except ValidationError as error:
            raise DamagedArtifact(f"{self.uri}/{MANIFEST} is not a manifest: {error.errors()[0]['msg']}") from error

    def names(self, pattern: str = "") -> list[str]:
        """Return the names of the artifact's files that match a regular expression, in the manifest's order."""
        return [file.name for file in self.manifest().files if re.search(pattern, file.name)]

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading."""
        return self.store.open(f"{self.path}/{name}")

    def local(self, name: str, scratch: Path) -> Path:
        """Return a path on this machine that holds the file: itself in a local store, else a copy below `scratch`."""
        here = self.store.local_path(f"{self.path}/{name}")
        if here is not None:
            return here
        copy = scratch / self.stage / self.key / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.with_suffix(".partial")
            partial.write_bytes(self.store.read(f"{self.path}/{name}"))
            partial.replace(copy)
        return copy

    def check(self, *, rehash: bool = False) -> Check:
        """Say whether the artifact can be used.

        Every file must be there with the size and hash that the manifest gives. A hash is computed once for each
        version of a file and remembered beside the store's locks, as an index of version control does; `rehash`
        computes all of them again.
        """
        if not self.store.exists(f"{self.path}/{MANIFEST}"):
            finished = self.records()
            if finished:
                return Check("partial", f"{len(finished)} finished files of an interrupted run")
            return Check("missing", "never made")
        try:
            manifest = self.manifest()
        except DamagedArtifact as error:
            return Check("damaged", str(error))
        sizes = self.store.files(self.path)
        known = {} if rehash else self._remembered()
        seen: dict[str, str] = {}
        for entry in manifest.files:
            fault = self._fault(entry, sizes, known, seen)
            if fault:
                return Check("damaged", fault)
        if seen != known:
            self.store.write(self._memory, json.dumps(seen, sort_keys=True).encode())
        return Check("done", f"{manifest.counts.get('rows', 0)} rows in {len(manifest.files)} files")

    def _fault(
        self, entry: FileEntry, sizes: dict[str, int], known: dict[str, str], seen: dict[str, str]
    ) -> str | None:
        if entry.name not in sizes:
            return f"{entry.name} is missing"
        if sizes[entry.name] != entry.bytes:
            return f"{entry.name} has {sizes[entry.name]} bytes, not {entry.bytes}"
        version = f"{self.store.fingerprint(f'{self.path}/{entry.name}')} {entry.sha256}"
        if known.get(entry.name) != version and self.sha256(entry.name) != entry.sha256:
            return f"the content of {entry.name} is not what was written"
        seen[entry.name] = version
        return None

    @property
    def _memory(self) -> str:
        return f".verified/{self.stage}-{self.key}.json"

    def _remembered(self) -> dict[str, str]:
        try:
            return json.loads(self.store.read(self._memory))
        except (FileNotFoundError, ValueError):  # a memory that is lost costs one more hash
            return {}

    def sha256(self, name: str) -> str:
        """Return the hash of a file's present content."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def records(self) -> dict[str, FileEntry]:
        """Return what an unfinished run has finished so far: one entry for each whole file."""
        return {entry.name: entry for entry in self._read_records()}

    def _read_records(self) -> Iterator[FileEntry]:
        folder = f"{self.path}/{PROGRESS}/files"
        for name in self.store.files(folder):
            yield FileEntry.model_validate_json(self.store.read(f"{folder}/{name}"))

    def reopen(self) -> None:
        """Turn a damaged artifact back into an unfinished one: what is whole stays, the rest is made again.

        The records are written before the manifest goes, so that a kill in between loses nothing.
        """
        try:
            manifest = self.manifest()
        except DamagedArtifact:
            self.store.remove(f"{self.path}/{MANIFEST}")
            return
        sizes = self.store.files(self.path)
        for entry in manifest.files:
            if self._fault(entry, sizes, {}, {}) is None:
                self.record(entry)
        self.store.remove(f"{self.path}/{MANIFEST}")

    def add(self, name: str, data: bytes, rows: int, counts: Mapping[str, int]) -> None:
        """Write a file of an unfinished artifact, and then the record that it is whole."""
        self.store.write(f"{self.path}/{name}", data)
        digest = hashlib.sha256(data).hexdigest()
        self.record(FileEntry(name=name, rows=rows, bytes=len(data), sha256=digest, counts=dict(counts)))

    def add_file(self, name: str, source: Path) -> None:
        """Copy a local file of any size into an unfinished artifact, and then record it."""
        self.store.upload(f"{self.path}/{name}", source)
        self.record(FileEntry(name=name, rows=0, bytes=source.stat().st_size, sha256=self.sha256(name)))

    def record(self, entry: FileEntry) -> None:
        """Write down that a file of an unfinished artifact is whole."""
        self.store.write(f"{self.path}/{PROGRESS}/files/{entry.name}.json", entry.model_dump_json().encode())

    def remove(self) -> None:
        """Remove the artifact; the manifest goes first, so that a kill half-way leaves nothing that looks done."""
        self.store.remove(f"{self.path}/{MANIFEST}")
        self.store.remove(self.path)
        self.store.remove(self._memory)

    def commit(self, manifest: Manifest) -> None:
        """Mark the artifact as done; first sweep away what is not part of it, such as the torso of a killed write."""
        self.store.keep_only(self.path, {entry.name for entry in manifest.files}, PROGRESS)
        body: dict[str, Any] = json.loads(manifest.model_dump_json())
        self.store.write(f"{self.path}/{MANIFEST}", (json.dumps(body, indent=1) + "\n").encode())
        self.tidy()

    def tidy(self) -> None:
        """Remove the traces of the making; a kill right after the manifest was written can leave them."""
        self.store.remove(f"{self.path}/{PROGRESS}")
