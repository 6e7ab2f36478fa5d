"""The shards of an artifact, by file names, and the protocol of the workers that write them."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from storage.artifact import Artifact


@dataclass(frozen=True)
class Shard:
    """A part of an artifact that is finished when all of its files are."""

    number: int
    """Position among all shards of the artifact, from 0."""
    files: tuple[str, ...]
    rows: int
    """Rows that it is made from: of the input, or requested."""

    @property
    def name(self) -> str:
        """Its first file, which names it in the log."""
        return self.files[0]


@dataclass(frozen=True)
class RowRangeShard(Shard):
    """A range of rows, from `start` up to but not including `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class FileShard(Shard):
    """The output that belongs to one file of an input."""

    source: str


class ShardWorker(Protocol):
    """Writes all files of a shard; built once in each worker process."""

    def __call__(self, shard: Any) -> None: ...


def split_rows(rows: int, size: int, *names: str) -> list[RowRangeShard]:
    """Return the shards of `size` rows, each with a file of every name."""
    starts = range(0, rows, size)
    return [
        RowRangeShard(number, _files(names, number), min(size, rows - start), start, min(start + size, rows))
        for number, start in enumerate(starts)
    ]


def shard_per_file(source: Artifact, pattern: str, *names: str) -> list[FileShard]:
    """Return a shard for each non-empty input file whose name matches, with a file of every name."""
    inputs = [file for file in source.manifest().files if re.search(pattern, file.name) and file.rows]
    return [FileShard(number, _files(names, number), file.rows, file.name) for number, file in enumerate(inputs)]


def _files(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(f"{name}-{number:05d}.parquet" for name in names)
