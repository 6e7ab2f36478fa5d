"""The stage: key, cache, resumption and commit. Only `Stage.run` makes artifacts."""

import contextlib
import datetime
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from lightgen_core.encoders.model_ref import parse_model_ref
from storage.artifact import AlreadyCommitted, Artifact, CorruptArtifact
from storage.keys import artifact_key
from storage.manifest import Manifest
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.context.digests import content_digest, weights_digest
from tasks.context.explain import explain_missing
from tasks.context.host import host_facts
from tasks.context.progress import ProgressCallback, ignore_progress
from tasks.context.reuse import RowConfig
from tasks.context.scratch import Scratch
from tasks.context.software import software
from tasks.context.spent import driver_meter, keep_cost, spent, started_at
from tasks.executors.select import run_shards

logger = logging.getLogger(__name__)


class InputChanged(Exception):
    """A file that a stage reads changed while it ran, so its key no longer describes the result."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. Equal keys mean equal bytes."""

    name: str
    version: int
    config_sections: tuple[str, ...]
    count_fields: Callable[[Recipe], tuple[str, ...]]
    body: Callable[..., None]
    weights: Callable[[Recipe], tuple[str, ...]]
    files: Callable[[Recipe], tuple[str, ...]]
    on_device: Callable[[Recipe], bool]

    @property
    def description(self) -> str:
        """Summary of its outputs: the first paragraph of its body's docstring."""
        return (self.body.__doc__ or "").split("\n\n")[0]

    def config(self, recipe: Recipe) -> dict[str, Any]:
        """Return the part of a recipe that decides this stage's bytes, with digests of models and files."""
        sections = recipe.model_dump(mode="json", include=set(self.config_sections))
        weights = {reference: weights_digest(reference) for reference in self.weights(recipe)}
        files = {path: content_digest(path) for path in self.files(recipe)}
        return sections | {"weights": weights} | ({"files": files} if files else {})

    def artifact(self, recipe: Recipe, store: Store, inputs: tuple[Artifact, ...], suffix: str = "") -> Artifact:
        """Return this stage's artifact for a recipe and inputs, finished or not; `suffix` ends its label."""
        key = artifact_key(self.name, self.version, self.config(recipe), _keys(inputs))
        return Artifact(store, self.name, key, self.name + suffix)

    def explain_missing(self, recipe: Recipe, inputs: tuple[Artifact, ...], artifact: Artifact) -> str:
        """Return a sentence on how a missing artifact differs from the nearest finished one."""
        return explain_missing(artifact, self.version, self.config(recipe), _keys(inputs))

    def run(
        self,
        recipe: Recipe,
        settings: Settings,
        inputs: tuple[Artifact, ...],
        artifact: Artifact,
        *,
        remake_before: datetime.datetime | None = None,
        on_progress: ProgressCallback = ignore_progress,
        device: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> bool:
        """Make the artifact, unless it is done. Return True if this call made it.

        A damaged artifact keeps its intact files, an interrupted one its finished shards; only the rest is made. In a
        store without locks another machine may make the same one: the first to finish has made it.

        Args:
            remake_before: an artifact that was made, or begun, before this moment is made again from nothing. All
                attempts of a run share it, so that a second attempt continues the first.
            on_progress: called with the stage's progress.
            device: context that holds the accelerator for a stage that needs it; it may wait for it.

        Raises:
            InputChanged: a file that the stage reads was changed while it ran.
        """
        scratch, meter, asked = Scratch(artifact, settings), driver_meter(artifact), time.monotonic()
        with scratch.lock():
            meter.waited += time.monotonic() - asked
            refresh = remake_before is not None and _is_older(artifact, remake_before)
            if refresh:
                artifact.remove()
                scratch.clear()
            status = artifact.check()
            if status.state == "done":
                artifact.prune()
                return False
            if status.state == "damaged":
                logger.warning("%s: %s; making it again", self.name, status.reason)
                keep_cost(artifact)
                artifact.uncommit()
            ctx = StageContext(
                recipe,
                settings,
                artifact,
                RowConfig(self.version, self.config(recipe), self.count_fields(recipe)),
                reuse=remake_before is None,
                on_progress=on_progress,
                on_device=self.on_device(recipe),
                execute=run_shards,
                meter=meter,
            )
            begun = "started (to be made again)"
            if status.state == "partial":
                begun = f"going on: {status.reason}"
            elif status.state == "missing" and not refresh:
                begun = f"started ({self.explain_missing(recipe, inputs, artifact)})"
            try:
                made_here = self._make(ctx, inputs, begun, device)
            except (AlreadyCommitted, CorruptArtifact, FileNotFoundError):
                # Whoever finishes sweeps away what this one may have been reading.
                if artifact.store.supports_locking or not artifact.is_committed():
                    raise
                artifact.prune()
                made_here = False
            scratch.clear()
            if not made_here:
                logger.info("%s: another machine finished it first; its artifact is taken", self.name)
            return made_here

    def _make(
        self,
        ctx: StageContext,
        inputs: tuple[Artifact, ...],
        begun: str,
        device: Callable[[], AbstractContextManager[Any]],
    ) -> bool:
        """Run the body and commit, with the device if the stage needs it. Return False if another was first."""
        asked = time.monotonic()
        with device() if ctx.on_device else contextlib.nullcontext():
            ctx.meter.waited += time.monotonic() - asked
            ctx.artifact.records()  # raises where another machine has finished it while this one waited
            ctx.log("%s", begun)
            with ctx.meter.running():
                self.body(ctx, *inputs)
            _log_reused(ctx)
            return ctx.artifact.commit(self._manifest(ctx, inputs))

    def _manifest(self, ctx: StageContext, inputs: tuple[Artifact, ...]) -> Manifest:
        records, config = ctx.records(), self.config(ctx.recipe)
        keys = _keys(inputs)
        if artifact_key(self.name, self.version, config, keys) != ctx.artifact.key:
            ctx.artifact.remove()
            raise InputChanged(
                f"{self.name}: a file that it reads was changed meanwhile ({', '.join(self.files(ctx.recipe))}, or "
                "weights); the mixed result was removed. Run the same command again."
            )
        scratch, on_device = Scratch(ctx.artifact, ctx.settings), self.on_device(ctx.recipe)
        cost = spent(ctx.artifact, scratch, on_device=on_device, own=ctx.meter.record())
        files = tuple(records[name] for name in sorted(records))
        counts = Counter(rows=sum(file.rows for file in files))
        for file in files:
            counts.update(file.counts)
        return Manifest(
            stage=self.name,
            key=ctx.artifact.key,
            stage_version=self.version,
            config=config,
            inputs=keys,
            files=files,
            counts=dict(counts) | ctx.counts,
            metrics=ctx.metrics,
            timings={"seconds": cost.wall_seconds},
            device_seconds=cost.device_seconds,
            cost=cost,
            models={
                name: reference.commit()
                for name in self.weights(ctx.recipe)
                if (reference := parse_model_ref(name)).path is None
            },
            software=software() | {"python": platform.python_version()},
            host=host_facts(ctx.settings.device if self.on_device(ctx.recipe) else None),
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def is_done(artifact: Artifact, settings: Settings) -> bool:
    """Return whether an artifact is done, as `Stage.run` finds it; remove what a kill after the manifest left there."""
    with Scratch(artifact, settings).lock():
        if artifact.check().state != "done":
            return False
        artifact.prune()
        return True


def _log_reused(ctx: StageContext) -> None:
    files = ctx.records().values()
    if reused := sum(file.reused for file in files):
        ctx.log("%d of %d rows were in other artifacts", reused, sum(file.rows for file in files))


def _keys(inputs: tuple[Artifact, ...]) -> dict[str, str]:
    return {artifact.label: artifact.key for artifact in inputs}


def _is_older(artifact: Artifact, moment: datetime.datetime) -> bool:
    """Return True if an artifact was made before a moment, or, where it is unfinished, begun before it."""
    try:
        created_at: str | None = artifact.manifest().created_at
    except CorruptArtifact:
        created_at = started_at(artifact)
    return created_at is None or datetime.datetime.fromisoformat(created_at) < moment


def stage(
    *,
    version: int,
    config_sections: tuple[str, ...],
    weights: Callable[[Recipe], tuple[str, ...]] = lambda recipe: (),
    files: Callable[[Recipe], tuple[str, ...]] = lambda recipe: (),
    count_fields: tuple[str, ...] | Callable[[Recipe], tuple[str, ...]] = (),
    on_device: bool | Callable[[Recipe], bool] = False,
) -> Callable[[Callable[..., None]], Stage]:
    """Turn a function `(ctx, *input artifacts)` into the stage of its name.

    Args:
        version: to be raised with every change of the stage's code, or of the core below it, that changes its bytes.
        config_sections: the recipe's sections that decide its bytes.
        weights: the frozen models that it uses, whose weights enter the key.
        files: the user's files or folders that it reads, whose content enters the key.
        count_fields: the fields that say how many rows there are or how files cut them, and leave each row as it is:
            recipes that differ in nothing else share rows.
        on_device: whether it holds the accelerator, for the cost ledger.
    """
    holds = on_device if callable(on_device) else lambda recipe: on_device
    counts = count_fields if callable(count_fields) else lambda recipe: count_fields
    return lambda body: Stage(body.__name__, version, config_sections, counts, body, weights, files, holds)
