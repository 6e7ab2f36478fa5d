"""A stage: its key, its cache, its resumption, its commit. Every artifact is made by `Stage.make`, nowhere else."""

import contextlib
import datetime
import logging
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightgen_core.encoders.model_ref import parse_model_ref
from storage.artifact import AlreadyCommitted, Artifact, CorruptArtifact
from storage.keys import artifact_key
from storage.manifest import FileEntry, Manifest
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.context import Job
from tasks.context.digests import content_digest, weights_digest
from tasks.context.elapsed import Clock
from tasks.context.explain import Wanted, never_made
from tasks.context.progress import Watch, nobody
from tasks.context.scratch import Scratch
from tasks.executors.worker import software

log = logging.getLogger("lightgen")


class InputChanged(Exception):
    """A file that a stage reads is not what it was when the stage began, so its key no longer tells what was made."""


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

    @property
    def purpose(self) -> str:
        """What it writes, in the words of its body's docstring."""
        return (self.body.__doc__ or "").split("\n\n")[0]

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

    def why_missing(self, recipe: Recipe, inputs: tuple[Artifact, ...], artifact: Artifact) -> str:
        """Say of an artifact that is not there how it differs from the nearest that is."""
        keys = {given.stage: given.key for given in inputs}
        return never_made(artifact, Wanted(self.version, self.config(recipe), keys))

    def make(
        self,
        recipe: Recipe,
        settings: Settings,
        inputs: tuple[Artifact, ...],
        artifact: Artifact,
        *,
        remake_before: datetime.datetime | None = None,
        watch: Watch = nobody,
        device: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> bool:
        """Make the artifact, unless it is done. Return whether this call made it.

        A damaged artifact keeps its whole files, an interrupted one its finished shards; only the rest is made. In a
        store without locks another machine may make the same one: the first to finish has made it.

        Args:
            remake_before: an artifact that was made, or begun, before this moment is made again from nothing. It
                is one for all attempts of a run, so that a second attempt goes on with what the first has made.
            watch: hears how far the making is.
            device: gives the accelerator to a stage that needs it, for as long as it works; it may wait for it.

        Raises:
            InputChanged: a file that the stage reads was changed while it worked.
        """
        scratch = Scratch(artifact, settings)
        with scratch.lock():
            refresh = remake_before is not None and _older(artifact, remake_before)
            if refresh:
                artifact.remove()
                scratch.clear()
            found = artifact.check()
            if found.state == "done":
                artifact.prune()
                return False
            if found.state == "damaged":
                log.warning("%s: %s; making it again", self.name, found.reason)
                artifact.uncommit()
            try:
                with device() if self.on_device(recipe) else contextlib.nullcontext():
                    artifact.records()  # raises where another machine has finished it while this one waited
                    job = Job(recipe, settings, artifact, watch, self.on_device(recipe))
                    if found.state == "partial":
                        job.say("going on: %s", found.reason)
                    elif found.state == "missing" and not refresh:
                        job.say("started (%s)", self.why_missing(recipe, inputs, artifact))
                    else:
                        job.say("started (to be made again)")
                    job.keep_clock()
                    self.body(job, *inputs)
                    first = artifact.commit(self._manifest(job, inputs))
            except (AlreadyCommitted, CorruptArtifact, FileNotFoundError):
                # Whoever finishes sweeps away what this one may have been reading.
                if artifact.store.supports_locking or not artifact.is_committed():
                    raise
                artifact.prune()
                first = False
            scratch.clear()
            if not first:
                log.info("%s: another machine finished it first; its artifact is taken", self.name)
            return first

    def _manifest(self, job: Job, inputs: tuple[Artifact, ...]) -> Manifest:
        records, config = job.records(), self.config(job.recipe)
        keys = {artifact.stage: artifact.key for artifact in inputs}
        if artifact_key(self.name, self.version, config, keys) != job.artifact.key:
            job.artifact.remove()
            raise InputChanged(
                f"{self.name}: a file that it reads was changed meanwhile ({', '.join(self.files(job.recipe))}, or "
                "weights); what was made of the old and the new is thrown away. Run the same command again."
            )
        seconds = round(job.clock.seconds(), 3)
        files = tuple(records[name] for name in sorted(records))
        return Manifest(
            stage=self.name,
            key=job.artifact.key,
            stage_version=self.version,
            config=config,
            inputs=keys,
            files=files,
            counts=_total(files) | job.counts,
            metrics=job.figures,
            timings={"seconds": seconds},
            device_seconds=seconds if self.on_device(job.recipe) else 0.0,
            models={
                name: reference.commit()
                for name in self.weights(job.recipe)
                if (reference := parse_model_ref(name)).path is None
            },
            software=software() | {"python": platform.python_version()},
            host={"machine": platform.machine(), "system": platform.system(), "device": job.settings.device},
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _older(artifact: Artifact, moment: datetime.datetime) -> bool:
    """Tell whether an artifact was made before a moment, or, where it is unfinished, begun before it."""
    made: datetime.datetime | None
    try:
        made = datetime.datetime.fromisoformat(artifact.manifest().created_at)
    except CorruptArtifact:
        made = Clock(artifact).began()
    return made is None or made < moment


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
