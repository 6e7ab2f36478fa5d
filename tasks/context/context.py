"""What a stage's body is given to work with: where things are, what is still to be made, and where to put it."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from storage.artifact import Artifact
from storage.manifest import FileEntry
from storage.tables import read_file, to_parquet
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.elapsed import Clock
from tasks.context.progress import Progress, Watch, nobody
from tasks.context.scratch import Scratch
from tasks.context.shards import Shard

if TYPE_CHECKING:
    import torch

    from lightgen_core.sampling.token_sampler import HeadCompileConfig
    from tasks.executors.worker import Maker

log = logging.getLogger("lightgen")

AnyShard = TypeVar("AnyShard", bound=Shard)

LOG_SECONDS = 10
"""A training loop's figures are logged at most this often."""


@dataclass
class Job:
    """One making of one artifact."""

    recipe: Recipe
    settings: Settings
    artifact: Artifact
    watch: Watch = nobody
    on_device: bool = True
    """Whether the stage works on the accelerator."""
    worker: bool = False
    """Whether this is the job as one of several workers has it."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What the stage measured; goes into the manifest, so it must be a function of the key."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the stage counted beside the rows of its files; goes into the manifest."""
    must_hold: set[str] = field(default_factory=set)
    """Files without which the artifact is not complete: those of its shards, and what was written beside them."""
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.artifact)

    def for_worker(self, settings: Settings) -> "Job":
        """Return the job as a worker gets it: it pickles, writes shards, and leaves clock and watch to this one."""
        return replace(self, settings=settings, watch=nobody, worker=True, figures={}, counts={}, must_hold=set())

    def say(self, message: str, *values: object) -> None:
        """Log a line for the person who watches the run."""
        log.info(f"{self.artifact.stage}: {message}", *values)

    @property
    def scratch(self) -> Path:
        """A local folder that lives until the artifact is committed: checkpoints go here."""
        return Scratch(self.artifact, self.settings).folder

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

    def acceleration(self) -> "HeadCompileConfig":
        """Return how a student's head is run where images are sampled."""
        from lightgen_core.sampling.token_sampler import HeadCompileConfig

        return HeadCompileConfig(self.settings.compile_head, self.settings.cuda_graphs)

    def each(self, shards: Sequence[Shard], maker: "Callable[..., Maker]", *inputs: Any) -> None:
        """Have those shards made that no earlier run has finished: here, by other processes or on a Ray cluster.

        Args:
            maker: a class of a module. Each worker calls it once, with a job and the inputs, to load what it needs;
                then it calls what it got with one shard after another, each to be written in that job. Shards are
                made in any order, some at once.
            inputs: artifacts, and other things that pickle and are small.

        Raises:
            EngineError: the workers cannot do it. An error of a maker is raised as it is.
        """
        from tasks.executors.select import make

        left = self._left(shards)
        tell = self._teller(left, shards)
        with contextlib.closing(make(self, left, maker, inputs)) as made:
            for shard in made:
                tell(shard)

    def unfinished(self, shards: Sequence[AnyShard]) -> Iterator[AnyShard]:
        """Yield the shards that no earlier run has finished, for the caller to make one after the other."""
        left = self._left(shards)
        tell = self._teller(left, shards)
        for shard in left:
            yield shard
            tell(shard)

    def _left(self, shards: Sequence[AnyShard]) -> list[AnyShard]:
        self.must_hold.update(name for shard in shards for name in shard.files)
        finished = self.artifact.intact_files()
        return [shard for shard in shards if not finished.issuperset(shard.files)]

    def _teller(self, left: Sequence[Shard], shards: Sequence[Shard]) -> Callable[[Shard], None]:
        """Return what is to be called with each finished shard: it tells how far the stage is, and the time left."""
        total, before, started = len(shards), len(shards) - len(left), time.monotonic()
        done, rows = before, sum(shard.rows for shard in shards) - sum(shard.rows for shard in left)
        if done:
            self.say("%d of %d shards are there already", done, total)
        self.watch(Progress(done, total, "shards", rows=rows))

        def tell(shard: Shard) -> None:
            nonlocal done, rows
            done, rows = done + 1, rows + shard.rows
            remaining = (time.monotonic() - started) / (done - before) * (total - done)
            self.say("shard %d of %d, %.0f s left", done, total, remaining)
            self.watch(Progress(done, total, "shards", remaining, rows=rows))

        return tell

    def records(self) -> dict[str, FileEntry]:
        """Return the record of each file of the artifact, once all shards are made.

        Raises:
            CorruptArtifact: one that must be there is not; another run has removed it.
            AlreadyCommitted: another machine has finished the artifact.
        """
        records = self.artifact.records()
        if lost := self.must_hold - records.keys():
            raise self.artifact.missing_file_error(min(lost))
        return records

    def written(self, pattern: str) -> pa.Table:
        """Return the rows of this artifact's own finished files whose name matches, in order."""
        return pa.concat_tables(self.each_written(pattern))

    def each_written(self, pattern: str) -> Iterator[pa.Table]:
        """Yield the rows of this artifact's own finished files whose name matches, a file at a time."""
        names = sorted(name for name in self.records() if re.search(pattern, name))
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

    def write_table(self, name: str, table: pa.Table, counts: Mapping[str, int] | None = None) -> None:
        """Write a table as a Parquet file of the artifact, with what was counted while making it."""
        self.write(name, to_parquet(table), rows=table.num_rows, counts=counts)

    def write(self, name: str, data: bytes, rows: int = 0, counts: Mapping[str, int] | None = None) -> None:
        """Write a file of the artifact."""
        self.artifact.add(name, data, rows, counts or {})
        self.must_hold.add(name)
        self.keep_clock()

    def add_folder(self, folder: Path, prefix: str = "") -> None:
        """Add every file of a local folder to the artifact."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = prefix + path.relative_to(folder).as_posix()
            self.artifact.add_file(name, path)
            self.must_hold.add(name)
        self.keep_clock()

    def keep_clock(self) -> None:
        """Write down how long the making has taken so far; a worker is not asked."""
        if not self.worker:
            self.clock.keep()
