"""A stage: its key, its cache, its resumption, its commit. Every artifact is made by `Stage.make`, nowhere else."""

import contextlib
import datetime
import json
import logging
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lightgen_core.content import content_digest, weights_digest
from lightgen_core.references import parse
from storage.artifact import PROGRESS, Artifact
from storage.keys import artifact_key
from storage.manifest import FileEntry, Manifest
from storage.store import Store
from storage.tables import read_file, to_parquet
from tasks.recipe import Recipe
from tasks.settings import Settings

if TYPE_CHECKING:
    import torch

    from lightgen_core.head_loop import Acceleration

log = logging.getLogger("lightgen")

LOG_SECONDS = 10
"""A training loop's figures are logged at most this often."""

SOFTWARE = (
    "lightgen",
    "torch",
    "numpy",
    "pyarrow",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "faiss-cpu",
    "prefect",
)


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
    """One making of one artifact: what a stage's body is given to work with."""

    recipe: Recipe
    settings: Settings
    artifact: Artifact
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
        started = time.monotonic()
        for done, name in enumerate(left, start=1):
            yield name
            remaining = (time.monotonic() - started) / done * (len(left) - done)
            self.say("shard %d of %d, %.0f s left", len(names) - len(left) + done, len(names), remaining)

    def written(self, pattern: str) -> pa.Table:
        """Return the rows of this artifact's own finished files whose name matches, in order."""
        return pa.concat_tables(self.each_written(pattern))

    def each_written(self, pattern: str) -> Iterator[pa.Table]:
        """Yield the rows of this artifact's own finished files whose name matches, a file at a time."""
        names = sorted(name for name in self.artifact.records() if re.search(pattern, name))
        yield from (read_file(self.artifact, name) for name in names)

    def progress(self, steps: int) -> Callable[[dict[str, Any]], None]:
        """Return a callback for a training loop that logs its figures now and then, and the time left."""
        logged, before = time.monotonic(), None

        def on_log(row: dict[str, Any]) -> None:
            nonlocal logged, before
            seconds = time.monotonic() - logged
            if before is not None and seconds < LOG_SECONDS and row["step"] < steps:
                return
            figures = ", ".join(f"{name} {value:.3g}" for name, value in row.items() if name not in ("step", "seconds"))
            left = "" if before is None else f"; {(steps - row['step']) * seconds / (row['step'] - before):.0f} s left"
            self.say("step %d of %d, %s%s", row["step"], steps, figures, left)
            logged, before = time.monotonic(), row["step"]

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


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. Equal keys mean equal bytes."""

    name: str
    version: int
    reads: tuple[str, ...]
    body: Callable[..., None]
    weights: Callable[[Recipe], tuple[str, ...]]
    files: Callable[[Recipe], tuple[str, ...]]
    on_device: Callable[[Recipe], bool]

    def config(self, recipe: Recipe) -> dict[str, Any]:
        """Return what of the recipe decides this stage's bytes, frozen weights and the content of files included."""
        whole = recipe.model_dump(mode="json", include=set(self.reads))
        weights = {reference: weights_digest(reference) for reference in self.weights(recipe)}
        files = {path: content_digest(Path(path).expanduser()) for path in self.files(recipe)}
        return whole | {"weights": weights} | ({"files": files} if files else {})

    def artifact(self, recipe: Recipe, store: Store, inputs: tuple[Artifact, ...]) -> Artifact:
        """Return the place of what this stage makes of a recipe and inputs. Nothing is made."""
        keys = {artifact.stage: artifact.key for artifact in inputs}
        return Artifact(store, self.name, artifact_key(self.name, self.version, self.config(recipe), keys))

    def make(
        self, recipe: Recipe, settings: Settings, inputs: tuple[Artifact, ...], artifact: Artifact, *, refresh: bool
    ) -> bool:
        """Make the artifact, unless it is done. Return whether there was anything to do.

        A damaged artifact keeps its whole files, an interrupted one its finished shards; only the rest is made.
        """
        with artifact.store.lock(f"{self.name}-{artifact.key}"):
            if refresh:
                artifact.remove()
            found = artifact.check()
            if found.state == "done":
                artifact.tidy()
                return False
            if found.state == "damaged":
                log.warning("%s: %s; making it again", self.name, found.why)
                artifact.reopen()
            job = Job(recipe, settings, artifact)
            job.say("started (%s)", found.why)
            self.body(job, *inputs)
            artifact.commit(self._manifest(job, inputs))
            return True

    def _manifest(self, job: Job, inputs: tuple[Artifact, ...]) -> Manifest:
        files = tuple(sorted(job.artifact.records().values(), key=lambda entry: entry.name))
        seconds = round(job.seconds(), 3)
        return Manifest(
            stage=self.name,
            key=job.artifact.key,
            stage_version=self.version,
            config=self.config(job.recipe),
            inputs={artifact.stage: artifact.key for artifact in inputs},
            files=files,
            counts=_total(files) | job.counts,
            figures=job.figures,
            timings={"seconds": seconds},
            device_seconds=seconds if self.on_device(job.recipe) else 0.0,
            models={
                name: reference.commit() for name in self.weights(job.recipe) if (reference := parse(name)).path is None
            },
            software={name: version(name) for name in SOFTWARE} | {"python": platform.python_version()},
            host={"machine": platform.machine(), "system": platform.system(), "device": job.settings.device},
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _total(files: tuple[FileEntry, ...]) -> dict[str, int]:
    total = {"rows": sum(file.rows for file in files)}
    for file in files:
        for name, count in file.counts.items():
            total[name] = total.get(name, 0) + count
    return total


def stage(
    *,
    version: int,
    reads: tuple[str, ...],
    weights: Callable[[Recipe], tuple[str, ...]] = lambda recipe: (),
    files: Callable[[Recipe], tuple[str, ...]] = lambda recipe: (),
    on_device: bool | Callable[[Recipe], bool] = False,
) -> Callable[[Callable[..., None]], Stage]:
    """Turn a function `(job, *input artifacts)` into the stage of its name.

    Args:
        version: raise it when a change of the stage's code, or of the core below it, changes the bytes it makes.
        reads: the recipe's sections that decide its bytes.
        weights: the frozen components it uses, whose weights enter the key.
        files: the user's files or folders that it reads, whose content enters the key.
        on_device: whether it holds the accelerator, for the cost ledger.
    """

    def wrap(body: Callable[..., None]) -> Stage:
        holds = on_device if callable(on_device) else lambda recipe: on_device
        return Stage(body.__name__, version, reads, body, weights, files, holds)

    return wrap
