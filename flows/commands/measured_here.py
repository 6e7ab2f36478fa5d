"""Speeds of stages on this machine, as the manifests of a store tell them, for `lightgen estimate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.distill import ALL_NAMES
from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import Manifest
from storage.store import Store
from tasks.config.recipe import Recipe
from tasks.context.host import host_facts

SAME: Mapping[str, tuple[str, ...]] = {
    "captions": ("captions.source",),
    "synthesis": (
        "synthesis.teacher",
        *(
            f"synthesis.diffusers.{name}"
            for name in ("model", "steps", "max_sequence_length", "step_cache", "quantization")
        ),
    ),
    "embeddings": ("embeddings.model",),
    "tokens": ("tokens.codec", "tokens.text_encoder", "tokens.sizes"),
}
"""Fields that must be those of the recipe for a stage whose items are counted: another model is as fast as it is."""
HOST = ("cpu", "cores", "gpu")
"""Facts by which a machine is known again."""
MIN_SECONDS = 0.5
"""Time of a making below which start and end are most of it, and it says nothing."""


@dataclass(frozen=True)
class Measured:
    """The newest making of a stage here: FLOPs of the student (None: not counted) and items, a second."""

    artifact: str
    flops: float | None
    items: float

    def seconds(self, items: float, flops: float | None) -> float:
        """Return the time for a stage's items, by their FLOPs where both are counted."""
        return flops / self.flops if flops and self.flops else items / self.items


def measured_here(store: Store, recipe: Recipe) -> dict[str, Measured]:
    """Return the newest speeds of this machine in a store that hold for a recipe, by stage."""
    fields, here = recipe.model_dump(mode="json"), host_facts(None)
    found = {}
    for stage in ALL_NAMES:
        made = [each for each in _manifests(store, stage) if _tells(each, fields, here)]
        if made:
            newest = max(made, key=lambda manifest: manifest.created_at)
            found[stage] = _speed(newest)
    return found


def _manifests(store: Store, stage: str) -> list[Manifest]:
    found = []
    for key in store.folders(stage):
        try:
            found.append(Artifact(store, stage, key).manifest())
        except CorruptArtifact:  # unfinished
            continue
    return found


def _tells(manifest: Manifest, fields: Mapping[str, Any], here: Mapping[str, str]) -> bool:
    """Return whether a manifest was made here, anew, and of what the recipe has too."""
    same = all(_at(manifest.config, name) == _at(fields, name) for name in SAME.get(manifest.stage, ()))
    anew = manifest.cost is not None and manifest.cost.wall_seconds >= MIN_SECONDS and not manifest.reused
    return same and anew and all(manifest.host.get(fact) == here.get(fact) for fact in HOST)


def _at(fields: Mapping[str, Any], name: str) -> Any:
    """Return a field by its dotted name; None where a section is not there."""
    value: Any = fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _speed(manifest: Manifest) -> Measured:
    assert manifest.cost is not None, "only these tell"
    seconds = manifest.cost.wall_seconds
    items = 1 if manifest.stage == "report" else manifest.counts["rows"]
    flops = manifest.cost.flops
    return Measured(f"{manifest.stage}/{manifest.key[:8]}", flops and flops / seconds, max(items, 1) / seconds)
