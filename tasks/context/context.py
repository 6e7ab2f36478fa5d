"""The context that a stage's body runs in: recipe, settings, artifact, pending shards and progress."""

import contextlib
import functools
import logging
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from lightgen_core.metering.meter import Meter
from storage.artifact import Artifact
from storage.manifest import FileEntry
from storage.tables import read_file, to_parquet
from tasks.config.recipe import Recipe
from tasks.config.settings import ANY_GPU, Settings
from tasks.context.progress import Progress, ProgressCallback, TimeLeft, duration_in_words, ignore_progress
from tasks.context.reuse import EarlierArtifacts, EarlierRows, RowConfig, file_prefix
from tasks.context.scratch import Scratch
from tasks.context.shards import Shard, ShardWorker

if TYPE_CHECKING:
    import torch

    from lightgen_core.sampling.token_sampler import HeadCompileConfig


logger = logging.getLogger(__name__)

AnyShard = TypeVar("AnyShard", bound=Shard)

ShardExecutor = Callable[
    ["StageContext", Sequence[Shard], Callable[..., ShardWorker], tuple[Any, ...]], Generator[Shard, None, None]
]
"""Runs a worker on each shard and yields the shard when it is finished; closing it stops the work."""

LOG_INTERVAL_SECONDS = 10
"""Minimum time between two logged lines of a training loop."""


@dataclass
class StageContext:
    """One run of a stage, on one artifact."""

    recipe: Recipe
    settings: Settings
    artifact: Artifact
    row_config: RowConfig = field(default_factory=lambda: RowConfig(0, {}, ()))
    """Configuration that decides the bytes of the stage's rows, beside their inputs."""
    reuse: bool = True
    """Take files and rows from earlier artifacts; not where a person asked for new ones."""
    on_progress: ProgressCallback = ignore_progress
    on_device: bool = True
    """True if the stage works on the accelerator."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics for the manifest; they must be a function of the key."""
    counts: dict[str, int] = field(default_factory=dict)
    """Counts for the manifest, beside the rows of the files."""
    required_files: set[str] = field(default_factory=set)
    """Files without which the artifact is not complete: those of its shards, and those written beside them."""
    execute: ShardExecutor | None = None
    """Executor of `run_shards`; None in a worker, which cannot fan out further."""
    meter: Meter = field(default_factory=Meter)
    """Measures what this process spends; in a worker that of the worker."""
    attempt: str = ""
    """In a worker the id of the driver's record of cost."""

    def for_worker(self, settings: Settings) -> "StageContext":
        """Return a copy for a worker: it pickles, writes shards, and reports no progress."""
        return StageContext(
            self.recipe,
            settings,
            self.artifact,
            self.row_config,
            self.reuse,
            on_device=self.on_device,
            attempt=self.meter.id,
        )

    def log(self, message: str, *values: object, shown_by_bar: bool = False) -> None:
        """Log an INFO line that starts with the stage's name; `shown_by_bar`: a progress bar says the same."""
        logger.info(f"{self.artifact.stage}: {message}", *values, extra={"shown_by_bar": shown_by_bar})

    @property
    def scratch(self) -> Path:
        """A local folder for checkpoints that lives until the artifact is committed."""
        return Scratch(self.artifact, self.settings).folder

    def local(self, artifact: Artifact, name: str) -> Path:
        """Return a local path of a file of an input artifact."""
        return artifact.local(name, Path(self.settings.scratch).expanduser() / "inputs")

    def local_folder(self, artifact: Artifact, prefix: str) -> Path:
        """Return a local folder with the files of an input artifact below `prefix` ("student/")."""
        paths = [self.local(artifact, name) for name in artifact.names(f"^{re.escape(prefix)}")]
        return paths[0].parent

    def device(self) -> "torch.device":
        """Return the device to work on."""
        from lightgen_core.device import pick_device

        device = pick_device(self.settings.device, self.settings.threads)
        self.meter.use(device)
        return device

    @functools.cached_property
    def workers(self) -> int:
        """Number of processes that make shards at once on this machine; by default one for each GPU that is used."""
        settings, shared = self.settings, not self.artifact.store.uri.startswith("memory:")
        counted = settings.workers is None and settings.engine == "local" and settings.device in ANY_GPU
        if not (counted and shared and self.on_device):
            return settings.workers or 1
        from lightgen_core.device import visible_gpus

        return max(1, len(visible_gpus()))

    def head_compile(self) -> "HeadCompileConfig":
        """Return the compile settings of a student's head while it samples."""
        from lightgen_core.sampling.token_sampler import HeadCompileConfig

        return HeadCompileConfig(self.settings.compile_head, self.settings.cuda_graphs)

    def run_shards(self, shards: Sequence[Shard], worker: Callable[..., ShardWorker], *inputs: Any) -> None:
        """Run a worker on each pending shard: in this process, in others, or on a Ray cluster.

        Args:
            worker: a class of a module. Each process builds it once, with a context and the inputs, to load what it
                needs; then it calls the instance with one shard after another, each to be written in that context.
                Shards run in any order, some at once.
            inputs: artifacts, and other things that pickle and are small.

        Raises:
            EngineError: the executor cannot do it. An error of a worker is raised as it is.
        """
        assert self.execute is not None, "run_shards needs an executor, which Stage.run sets"
        pending = self._pending(shards)
        with contextlib.closing(self.execute(self, pending, worker, inputs)) as finished:
            for _ in self._report_each(finished, pending, shards):
                pass

    def pending_shards(self, shards: Sequence[AnyShard]) -> Iterator[AnyShard]:
        """Yield the shards that no earlier run has finished, for the caller to write one by one."""
        pending = self._pending(shards)
        yield from self._report_each(pending, pending, shards)

    def _pending(self, shards: Sequence[AnyShard]) -> list[AnyShard]:
        self.required_files.update(name for shard in shards for name in shard.files)
        finished = self.artifact.intact_files()
        missing = [shard for shard in shards if not finished.issuperset(shard.files)]
        pending = [shard for shard in missing if not self._take_over(shard)]
        for count, where in (
            (len(shards) - len(missing), "there"),
            (len(missing) - len(pending), "in other artifacts"),
        ):
            if count:
                self.log("%d of %d shards are %s already", count, len(shards), where)
        return pending

    def _take_over(self, shard: Shard) -> bool:
        """Take a shard's files from earlier artifacts; return False if one of them is in none."""
        if shard.address is None or not self.reuse:
            return False
        found = [self._earlier_files.get((file_prefix(name), shard.address)) for name in shard.files]
        return all(
            source is not None and self.artifact.take(*source, name)
            for name, source in zip(shard.files, found, strict=True)
        )

    @functools.cached_property
    def _earlier_artifacts(self) -> EarlierArtifacts:
        return EarlierArtifacts(self.artifact, self.row_config)

    @functools.cached_property
    def _earlier_files(self) -> dict[tuple[str, str], tuple[Artifact, FileEntry]]:
        return self._earlier_artifacts.files()

    def earlier_rows(self, pattern: str, keys: Sequence[str]) -> EarlierRows:
        """Return the rows of earlier artifacts, in files whose names match, by the values of key columns."""
        return EarlierRows(self._earlier_artifacts if self.reuse else [], pattern, keys)

    def _report_each(
        self, finished: Iterable[AnyShard], pending: Sequence[Shard], shards: Sequence[Shard]
    ) -> Iterator[AnyShard]:
        """Yield each shard, then report it as finished, with progress and the time left."""
        total, before = len(shards), len(shards) - len(pending)
        done, rows = before, sum(shard.rows for shard in shards) - sum(shard.rows for shard in pending)
        time_left = TimeLeft(len(pending), self.workers if pending else 1)
        self.on_progress(Progress(done, total, "shards", rows=rows))
        for shard in finished:
            yield shard
            done, rows = done + 1, rows + shard.rows
            left = time_left.after(done - before)
            text = f", {duration_in_words(left)} left" if left else ""
            self.log("shard %d of %d%s", done, total, text, shown_by_bar=True)
            self.on_progress(Progress(done, total, "shards", left, rows=rows))

    def records(self) -> dict[str, FileEntry]:
        """Return the record of each file of the artifact, once all shards are finished.

        Raises:
            CorruptArtifact: a required file is missing; another run has removed it.
            AlreadyCommitted: another machine has finished the artifact.
        """
        records = self.artifact.records()
        if lost := self.required_files - records.keys():
            raise self.artifact.missing_file_error(min(lost))
        return records

    def read_output(self, pattern: str) -> pa.Table:
        """Return the rows of this artifact's finished files whose name matches, in order."""
        return pa.concat_tables(self.iter_output(pattern))

    def iter_output(self, pattern: str) -> Iterator[pa.Table]:
        """Yield the rows of this artifact's finished files whose name matches, a file at a time."""
        names = sorted(name for name in self.records() if re.search(pattern, name))
        yield from (read_file(self.artifact, name) for name in names)

    def progress(self, steps: int) -> Callable[[dict[str, Any]], None]:
        """Return a callback for a training loop that reports metrics, and logs them now and then."""
        logged, before, left = time.monotonic(), None, None
        newest: dict[str, float] = {}  # not every row holds every metric

        def on_log(row: dict[str, Any]) -> None:
            nonlocal logged, before, left
            step, seconds = row["step"], time.monotonic() - logged
            previews = row.pop("previews", ())
            metrics = {name: value for name, value in row.items() if name not in ("step", "seconds", "flops")}
            newest.update(metrics)
            if "flops" in row:
                self.meter.count_flops(row["flops"])
            if before is not None and step > before:
                left = (steps - step) * seconds / (step - before)
            self.on_progress(Progress(step, steps, "steps", left, metrics, previews=previews))
            if before is not None and seconds < LOG_INTERVAL_SECONDS and step < steps:
                return
            values = ", ".join(f"{name} {value:.3g}" for name, value in newest.items())
            values += f"; {duration_in_words(left)} left" if left else ""
            self.log("step %d of %d, %s", step, steps, values, shown_by_bar=True)
            logged, before = time.monotonic(), step

        return on_log

    def write_table(
        self,
        name: str,
        table: pa.Table,
        counts: Mapping[str, int] | None = None,
        *,
        address: str | None = None,
        reused: int = 0,
    ) -> None:
        """Write a table as a Parquet file of the artifact; for counts, address and reused rows see `FileEntry`."""
        data = to_parquet(table)
        self.artifact.add(name, data, table.num_rows, counts or {}, address=address, reused=reused)
        self.meter.count_bytes(len(data))
        self.required_files.add(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the artifact."""
        self.artifact.add(name, data, 0, {})
        self.meter.count_bytes(len(data))
        self.required_files.add(name)

    def add_folder(self, folder: Path, prefix: str = "") -> None:
        """Add every file of a local folder to the artifact."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = prefix + path.relative_to(folder).as_posix()
            self.artifact.add_file(name, path)
            self.meter.count_bytes(path.stat().st_size)
            self.required_files.add(name)
