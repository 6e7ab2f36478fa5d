"""What a stage's body is given to work with: where things are, what is still to be made, and where to put it."""

import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.artifact import PROGRESS, Artifact
from storage.tables import read_file, to_parquet
from tasks.progress import Progress, Watch, nobody
from tasks.recipe import Recipe
from tasks.settings import Settings

if TYPE_CHECKING:
    import torch

    from lightgen_core.head_loop import Acceleration

log = logging.getLogger("lightgen")

LOG_SECONDS = 10
"""A training loop's figures are logged at most this often."""


@dataclass(frozen=True)
class Shard:
    """A run of rows that is made, written and resumed as one file."""

    name: str
    start: int
    stop: int

    def beside(self, name: str) -> str:
        """Return the name of this shard's other file, such as what was not taken."""
        return f"{name}-{self.name.rpartition('-')[2]}"


@dataclass
class Job:
    """One making of one artifact."""

    recipe: Recipe
    settings: Settings
    artifact: Artifact
    watch: Watch = nobody
    figures: dict[str, Any] = field(default_factory=dict)
    """What the stage measured; goes into the manifest, so it must be a function of the key."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the stage counted beside the rows of its files; goes into the manifest."""
    _started: float = field(default_factory=time.monotonic)

    def say(self, message: str, *values: object) -> None:
        """Log a line for the person who watches the run."""
        log.info(f"{self.artifact.stage}: {message}", *values)

    @property
    def scratch(self) -> Path:
        """A local folder that lives until the artifact is committed: checkpoints go here."""
        here = self.artifact.store.local_path(f"{self.artifact.path}/{PROGRESS}/scratch")
        folder = here or Path(self.settings.scratch).expanduser() / self.artifact.path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def local(self, artifact: Artifact, name: str) -> Path:
        """Return a path on this machine that holds a file of an input artifact."""
        return artifact.local(name, Path(self.settings.scratch).expanduser() / "inputs")

    def local_folder(self, artifact: Artifact, prefix: str) -> Path:
        """Return a folder on this machine that holds the files of an input artifact below `prefix` ("student/")."""
        paths = [self.local(artifact, name) for name in artifact.names(f"^{re.escape(prefix)}")]
        return paths[0].parent

    def device(self) -> "torch.device":
        """Return the device to work on."""
        from lightgen_core.device import pick_device

        return pick_device(self.settings.device, self.settings.threads)

    def acceleration(self) -> "Acceleration":
        """Return how a student's head is run where images are sampled."""
        from lightgen_core.head_loop import Acceleration

        return Acceleration(self.settings.compile_head, self.settings.cuda_graphs)

    def shards(self, rows: int, size: int, name: str, beside: str | None = None) -> Iterator[Shard]:
        """Yield the shards of `size` rows that an earlier run has not finished.

        Args:
            beside: name of a second file that each shard writes; a shard without it is not finished.
        """
        every = {}
        for number, start in enumerate(range(0, rows, size)):
            shard = Shard(f"{name}-{number:05d}.parquet", start, min(start + size, rows))
            every[shard.name] = shard
        second = {given: shard.beside(beside) for given, shard in every.items()} if beside else {}
        yield from (every[left] for left in self._unfinished(list(every), second))

    def mirrored(self, source: Artifact, pattern: str, name: str) -> Iterator[tuple[str, pa.Table]]:
        """Yield, for each file of an input without a finished counterpart here, the counterpart's name and the rows.

        A file without rows has no counterpart.
        """
        given = [file.name for file in source.manifest().files if re.search(pattern, file.name) and file.rows]
        pairs = {f"{name}-{index:05d}.parquet": mirrored for index, mirrored in enumerate(given)}
        for left in self._unfinished(list(pairs)):
            yield left, read_file(source, pairs[left])

    def _unfinished(self, names: list[str], second: Mapping[str, str] | None = None) -> Iterator[str]:
        """Yield the files that are still to be made, alone or with their second file; log how long they will take."""
        finished = self._finished()
        left = [name for name in names if not finished >= {name, (second or {}).get(name, name)}]
        if len(left) < len(names):
            self.say("%d of %d shards are there already", len(names) - len(left), len(names))
        started, before = time.monotonic(), len(names) - len(left)
        self.watch(Progress(before, len(names), "shards"))
        for done, name in enumerate(left, start=1):
            yield name
            remaining = (time.monotonic() - started) / done * (len(left) - done)
            self.say("shard %d of %d, %.0f s left", before + done, len(names), remaining)
            self.watch(Progress(before + done, len(names), "shards", remaining))

    def written(self, pattern: str) -> pa.Table:
        """Return the rows of this artifact's own finished files whose name matches, in order."""
        return pa.concat_tables(self.each_written(pattern))

    def each_written(self, pattern: str) -> Iterator[pa.Table]:
        """Yield the rows of this artifact's own finished files whose name matches, a file at a time."""
        names = sorted(name for name in self.artifact.records() if re.search(pattern, name))
        yield from (read_file(self.artifact, name) for name in names)

    def progress(self, steps: int) -> Callable[[dict[str, Any]], None]:
        """Return a callback for a training loop that logs its figures now and then, and the time left."""
        logged, before, left = time.monotonic(), None, None

        def on_log(row: dict[str, Any]) -> None:
            nonlocal logged, before, left
            step, seconds = row["step"], time.monotonic() - logged
            figures = {name: value for name, value in row.items() if name not in ("step", "seconds")}
            if before is not None and step > before:
                left = (steps - step) * seconds / (step - before)
            self.watch(Progress(step, steps, "steps", left, figures))
            if before is not None and seconds < LOG_SECONDS and step < steps:
                return
            told = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            self.say("step %d of %d, %s%s", step, steps, told, "" if left is None else f"; {left:.0f} s left")
            logged, before = time.monotonic(), step

        return on_log

    def _finished(self) -> set[str]:
        """Return the files that are whole; one whose bytes have changed since is taken for unfinished."""
        finished = set()
        for name, entry in self.artifact.records().items():
            if (
                self.artifact.store.exists(f"{self.artifact.path}/{name}")
                and self.artifact.sha256(name) == entry.sha256
            ):
                finished.add(name)
        return finished

    def write_table(self, name: str, table: pa.Table, counts: Mapping[str, int] | None = None) -> None:
        """Write a table as a Parquet file of the artifact, with what was counted while making it."""
        self.write(name, to_parquet(table), rows=table.num_rows, counts=counts)

    def write(self, name: str, data: bytes, rows: int = 0, counts: Mapping[str, int] | None = None) -> None:
        """Write a file of the artifact."""
        self.artifact.add(name, data, rows, counts or {})
        self._keep_clock()

    def add_folder(self, folder: Path, prefix: str = "") -> None:
        """Add every file of a local folder to the artifact."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.artifact.add_file(prefix + path.relative_to(folder).as_posix(), path)
        self._keep_clock()

    def _keep_clock(self) -> None:
        self.artifact.store.write(self._clock, json.dumps(self.seconds()).encode())
        self._started = time.monotonic()

    @property
    def _clock(self) -> str:
        return f"{self.artifact.path}/{PROGRESS}/seconds.json"

    def seconds(self) -> float:
        """Return the wall-clock seconds of this making and of the interrupted ones before it, where kept."""
        before = 0.0
        with contextlib.suppress(FileNotFoundError):
            before = json.loads(self.artifact.store.read(self._clock))
        return before + time.monotonic() - self._started
