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
    starts = enumerate(range(0, rows, size))
    return [Run(number, _files(names, number), start, min(start + size, rows)) for number, start in starts]


def counterparts(source: Artifact, pattern: str, *names: str) -> list[Counterpart]:
    """Return a shard for each file of an input that has rows and whose name matches, with a file of every name."""
    given = [file.name for file in source.manifest().files if re.search(pattern, file.name) and file.rows]
    return [Counterpart(number, _files(names, number), name) for number, name in enumerate(given)]


def _files(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(f"{name}-{number:05d}.parquet" for name in names)
