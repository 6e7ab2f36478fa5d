"""The shards of an artifact: what each consists of, by name, before any is made."""

import re
from dataclasses import dataclass

from storage.artifact import Artifact


@dataclass(frozen=True)
class Shard:
    """A piece of an artifact that is made and resumed as one: finished when all of its files are."""

    number: int
    """Of all shards of the artifact, from 0."""
    files: tuple[str, ...]
    rows: int
    """Rows that it is made from: of the input, or asked for."""

    @property
    def name(self) -> str:
        """Its first file, which names it in the log."""
        return self.files[0]


@dataclass(frozen=True)
class Run(Shard):
    """A run of rows, from `start` on and before `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Counterpart(Shard):
    """What is made of one file of an input."""

    source: str


def runs(rows: int, size: int, *names: str) -> list[Run]:
    """Return the shards of `size` rows, each with a file of every name."""
    spans = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    return [Run(number, _files(names, number), stop - start, start, stop) for number, (start, stop) in enumerate(spans)]


def counterparts(source: Artifact, pattern: str, *names: str) -> list[Counterpart]:
    """Return a shard for each file of an input that has rows and whose name matches, with a file of every name."""
    given = [file for file in source.manifest().files if re.search(pattern, file.name) and file.rows]
    return [Counterpart(number, _files(names, number), file.rows, file.name) for number, file in enumerate(given)]


def _files(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(f"{name}-{number:05d}.parquet" for name in names)
