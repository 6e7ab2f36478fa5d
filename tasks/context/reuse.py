"""Reuse of what finished artifacts of the same stage hold: whole files by address, single rows by key columns."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage.artifact import Artifact
from storage.keys import canonical_json
from storage.manifest import FileEntry, Manifest
from storage.rows import take_in_order, take_rows
from storage.tables import read_table
from tasks.context.explain import newest_manifests

MAX_ARTIFACTS = 64
"""Newest finished artifacts of a stage that are searched."""

_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class RowConfig:
    """All that decides the bytes of a stage's rows beside their inputs.

    `config` is the stage's configuration, `count_fields` the dotted names of its fields that say how many rows there
    are, or how they are cut into files, and leave each row as it is.
    """

    version: int
    config: Mapping[str, Any]
    count_fields: tuple[str, ...]

    def address(self, *content: Any) -> str:
        """Return the hash of this configuration and of a file's inputs, which JSON can express."""
        identity = [self.version, self._shared(self.config), *content]
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def agrees_with(self, manifest: Manifest) -> bool:
        """Return True if an artifact's rows are what this stage would make of the same inputs."""
        return manifest.stage_version == self.version and self._shared(manifest.config) == self._shared(self.config)

    def _shared(self, config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        return {
            name: self._shared_value(value, f"{prefix}{name}.")
            for name, value in config.items()
            if f"{prefix}{name}" not in self.count_fields
        }

    def _shared_value(self, value: Any, prefix: str) -> Any:
        """Return a value without count fields; those of a list's sections are named without a number."""
        if isinstance(value, Mapping):
            return self._shared(value, prefix)
        return [self._shared_value(each, prefix) for each in value] if isinstance(value, list) else value


class EarlierArtifacts:
    """The finished artifacts of a stage whose rows are those that it would make again; intact ones, newest first."""

    def __init__(self, artifact: Artifact, rows: RowConfig) -> None:
        self._artifacts: list[tuple[Artifact, Manifest]] = []
        for manifest in newest_manifests(artifact.store, artifact.stage, MAX_ARTIFACTS):
            earlier = Artifact(artifact.store, artifact.stage, manifest.key)
            if manifest.key == artifact.key or not rows.agrees_with(manifest):
                continue
            if earlier.check(sizes_only=not artifact.store.supports_locking).state == "done":
                self._artifacts.append((earlier, manifest))

    def __iter__(self) -> Iterator[Artifact]:
        return (artifact for artifact, _ in self._artifacts)

    def files(self) -> dict[tuple[str, str], tuple[Artifact, FileEntry]]:
        """Return each file with an address, by prefix of its name and address."""
        return {
            (file_prefix(entry.name), entry.address): (artifact, entry)
            for artifact, manifest in reversed(self._artifacts)
            for entry in manifest.files
            if entry.address
        }


def file_prefix(name: str) -> str:
    """Return the name of a shard's file without number and suffix."""
    return name.rpartition("-")[0]


class EarlierRows:
    """Rows of earlier artifacts, found by the values of their key columns."""

    def __init__(self, artifacts: Iterable[Artifact], pattern: str, keys: Sequence[str]) -> None:
        """Read the key columns of the files whose names match a pattern. Keys are of strings and integers."""
        self._pattern, self._keys = pattern, tuple(keys)
        self._artifacts = [
            (artifact, self._join(read_table(artifact, pattern, self._keys)))
            for artifact in artifacts
            if artifact.names(pattern)  # files that only some recipes ask for
        ]

    def complete(
        self, wanted: pa.Table, columns: Sequence[str], make: Callable[[list[int]], pa.Table]
    ) -> tuple[pa.Table, int]:
        """Return columns of the wanted rows, in order, and how many of them existed.

        Args:
            wanted: the key columns of the rows.
            columns: columns that depend on the key alone.
            make: makes them for the rows at some positions, ascending.
        """
        found, positions = self.take(wanted, columns)
        missing = np.setdiff1d(np.arange(len(wanted)), positions)
        made = make(missing.tolist()).select(columns) if len(missing) else pa.table({})
        return merge_rows(found, positions, made, missing), len(positions)

    def take(self, wanted: pa.Table, columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
        """Return columns of those wanted rows that exist, and their positions, ascending."""
        import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

        keys, tables, places = self._join(wanted), [], [np.zeros(0, np.int64)]
        remaining = np.arange(len(wanted))
        for artifact, known in self._artifacts:
            rows = pc.fill_null(pc.index_in(keys.take(remaining), value_set=known), -1).to_numpy().astype(np.int64)
            hits = rows >= 0
            if hits.any():
                unique, inverse = np.unique(rows[hits], return_inverse=True)
                tables.append(take_in_order(take_rows(artifact, self._pattern, unique, columns), inverse))
                places.append(remaining[hits])
                remaining = remaining[~hits]
        positions = np.concatenate(places)
        order = np.argsort(positions)
        found = take_in_order(pa.concat_tables(tables), order) if tables else pa.table({})
        return found, positions[order]

    def _join(self, table: pa.Table) -> pa.Array:
        """Return each row's keys as one string."""
        import pyarrow.compute as pc

        columns = [pc.cast(table[name], pa.large_string()) for name in self._keys]
        return pc.binary_join_element_wise(*columns, pa.scalar(_SEPARATOR, pa.large_string())).combine_chunks()


def merge_rows(found: pa.Table, positions: np.ndarray, made: pa.Table, missing: np.ndarray) -> pa.Table:
    """Return rows in order, from those at some positions and those at all others."""
    if not len(positions) or not len(missing):
        return made if len(missing) else found
    rows = pa.concat_tables([found.cast(made.schema), made])
    return take_in_order(rows, np.argsort(np.concatenate([positions, missing])))
