"""The artifacts that a student comes from, by the keys in their manifests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flows.distill import ALL_NAMES
from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import Manifest


@dataclass(frozen=True)
class Lineage:
    """Manifests of a student's artifact, of all that it was made from, and of the evaluation of it, by label.

    A label is the stage, and in later rounds of preference tuning `pairs-2`, `dpo-2` (`storage.artifact.Artifact`).
    student: its name in the scores (pretrain, sft, dpo, few_step).
    lost: stage/key of inputs that are no longer in the store.
    """

    student: str
    manifests: dict[str, Manifest]
    lost: tuple[str, ...]

    def section(self, stage: str, name: str) -> dict[str, Any]:
        """Return a recipe's section as it entered a stage's key; {} if the stage is unknown."""
        manifest = self.manifests.get(stage)
        return manifest.config.get(name, {}) if manifest else {}

    @property
    def recipe(self) -> str:
        """Name of the recipe, which the report alone knows."""
        report = self.manifests.get("report")
        return str(report.config["name"]) if report else ""

    @property
    def ordered(self) -> dict[str, Manifest]:
        """The manifests in the order of the pipeline, and within a stage of their making."""
        items = self.manifests.items()
        return dict(sorted(items, key=lambda item: (ALL_NAMES.index(item[1].stage), item[1].created_at, item[0])))


def trace_lineage(artifact: Artifact) -> Lineage:
    """Return the lineage of a student's artifact."""
    own = artifact.manifest()
    found: dict[str, tuple[str, Manifest]] = {artifact.path: (artifact.stage, own)}
    lost: set[str] = set()
    waiting = [*own.inputs.items()]
    while waiting:
        label, key = waiting.pop(0)
        read = Artifact(artifact.store, label.partition("-")[0], key, label)
        if read.path in found or read.path in lost:
            continue
        try:
            manifest = read.manifest()
        except CorruptArtifact:
            lost.add(read.path)
        else:
            found[read.path] = (label, manifest)
            waiting += manifest.inputs.items()
    evaluation = next((manifest for label, manifest in found.values() if label == "evaluation"), None)
    if evaluation is None and (evaluation := _evaluation_of(artifact)):
        found["evaluation"] = ("evaluation", evaluation)
    return Lineage(_name_in(evaluation, artifact), _by_label(found.values()), tuple(sorted(lost)))


def _by_label(found: Iterable[tuple[str, Manifest]]) -> dict[str, Manifest]:
    """Return manifests by label; a student's own `dpo` may be a later round than the `dpo` that it was made from."""
    manifests: dict[str, Manifest] = {}
    for label, manifest in found:
        manifests[f"{label} ({manifest.key[:8]})" if label in manifests else label] = manifest
    return manifests


def _name_in(evaluation: Manifest | None, artifact: Artifact) -> str:
    """Return a student's name in the scores of its evaluation."""
    labels = [label for label, key in evaluation.inputs.items() if key == artifact.key] if evaluation else []
    label = labels[0] if labels else artifact.stage
    names = {"pretrain": "pretrain", "distil_head": "few_step"}
    return names.get(label, "sft" if "-sft" in label else "dpo")


def _evaluation_of(artifact: Artifact) -> Manifest | None:
    """Return the newest evaluation of a student."""
    found = []
    for key in artifact.store.folders("evaluation"):
        try:
            manifest = Artifact(artifact.store, "evaluation", key).manifest()
        except CorruptArtifact:
            continue
        if artifact.key in manifest.inputs.values():
            found.append(manifest)
    return max(found, key=lambda manifest: manifest.created_at, default=None)
