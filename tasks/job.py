"""What a stage's body is given to work with: where things are, what is still to be made, and where to put it."""

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from storage.artifact import PROGRESS, Artifact
from storage.tables import read_file, to_parquet
from tasks.progress import Progress, Watch, nobody
from tasks.recipe import Recipe
from tasks.settings import Settings
from tasks.shards import Shard

if TYPE_CHECKING:
    import torch

    from lightgen_core.head_loop import Acceleration
    from tasks.worker import Maker

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
    _started: float = field(default_factory=time.monotonic)

    def for_worker(self, settings: Settings) -> "Job":
        """Return the job as a worker gets it: it pickles, writes shards, and leaves clock and watch to this one."""
        return replace(self, settings=settings, watch=nobody, worker=True, figures={}, counts={})

    def say(self, message: str, *values: object) -> None:
        """Log a line for the person who watches the run."""
        log.info(f"{self.artifact.stage}: {message}", *values)

    @property
    def scratch(self) -> Path:
        """A local folder that lives until the artifact is committed: checkpoints go here."""
        here = self.artifact.store.local_path(f"{self.artifact.path}/{PROGRESS}/scratch")
        folder = here or self._scratch
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def _scratch(self) -> Path:
        return Path(self.settings.scratch).expanduser() / self.artifact.path

    def clear_scratch(self) -> None:
        """Remove the scratch folder of a committed artifact; that in a local store goes with its traces."""
        if self.artifact.store.local_path(self.artifact.path) is None and self._scratch.exists():
            shutil.rmtree(self._scratch)

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
        from tasks.engine import make

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
        finished = self._finished()
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
        """Return the files that are whole; one that has changed since is taken for unfinished.

        On a disk the bytes are hashed again. What lies elsewhere was checked when it arrived there, and is as whole as
        its size says: to fetch all that is finished would take as long as the stage has taken.
        """
        artifact, finished = self.artifact, set()
        there = artifact.store.scan(artifact.path)
        for name, entry in artifact.records().items():
            found = there.get(entry.path)
            if found is None or found.size != entry.bytes:
                continue
            if artifact.store.local_path(artifact.path) is None or artifact.sha256(name) == entry.sha256:
                finished.add(name)
        return finished

    def write_table(self, name: str, table: pa.Table, counts: Mapping[str, int] | None = None) -> None:
        """Write a table as a Parquet file of the artifact, with what was counted while making it."""
        self.write(name, to_parquet(table), rows=table.num_rows, counts=counts)

    def write(self, name: str, data: bytes, rows: int = 0, counts: Mapping[str, int] | None = None) -> None:
        """Write a file of the artifact."""
        self.artifact.add(name, data, rows, counts or {})
        self.keep_clock()

    def add_folder(self, folder: Path, prefix: str = "") -> None:
        """Add every file of a local folder to the artifact."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.artifact.add_file(prefix + path.relative_to(folder).as_posix(), path)
        self.keep_clock()

    def keep_clock(self) -> None:
        """Write down how long the making has taken so far, unless this is the job of a worker, who is not asked."""
        if self.worker:
            return
        self.artifact.store.write(self.clock, json.dumps(self.seconds()).encode())
        self._started = time.monotonic()

    @property
    def clock(self) -> str:
        """Path in the store of the seconds that the making has taken so far."""
        return f"{self.artifact.path}/{PROGRESS}/seconds.json"

    def seconds(self) -> float:
        """Return the wall-clock seconds of this making and of the interrupted ones before it, where kept."""
        before = 0.0
        with contextlib.suppress(FileNotFoundError):
            before = json.loads(self.artifact.store.read(self.clock))
        return before + time.monotonic() - self._started
