"""The shards of an artifact, by file names, and the protocol of the workers that write them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
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
    address: str | None = field(default=None, kw_only=True)
    """Hash of all that decides its files (`RowConfig.address`), so that they can be taken from another artifact."""

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


def split_rows(
    rows: int, size: int, *names: str, address: Callable[[int, int], str | None] | None = None
) -> list[RowRangeShard]:
    """Return the shards of `size` rows, each with a file of every name.

    address: of the rows from the first number up to but not including the second; None: they are made in any case.
    """
    ranges = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    return [
        RowRangeShard(
            number,
            _files(names, number),
            stop - start,
            start,
            stop,
            address=address(start, stop) if address else None,
        )
        for number, (start, stop) in enumerate(ranges)
    ]


def shard_per_file(
    source: Artifact, pattern: str, *names: str, address: Callable[[str], str] | None = None
) -> list[FileShard]:
    """Return a shard for each non-empty input file whose name matches, with a file of every name.

    address: of what is made from a file with this sha256.
    """
    inputs = [file for file in source.manifest().files if re.search(pattern, file.name) and file.rows]
    return [
        FileShard(
            number,
            _files(names, number),
            file.rows,
            file.name,
            address=address(file.sha256) if address else None,
        )
        for number, file in enumerate(inputs)
    ]


def _files(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(f"{name}-{number:05d}.parquet" for name in names)
