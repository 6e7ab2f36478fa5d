"""The artifacts that a student comes from, by the keys in their manifests."""

from dataclasses import dataclass
from typing import Any

from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import Manifest


@dataclass(frozen=True)
class Lineage:
    """Manifests of a student's artifact, of all that it was made from, and of the evaluation of it.

    student: stage of the student's own artifact. lost: stage/key of inputs that are no longer in the store.
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
    def evaluated(self) -> str:
        """Name of this student in the scores."""
        return "pretrain" if self.student == "pretrain" else "dpo"


def trace_lineage(artifact: Artifact) -> Lineage:
    """Return the lineage of a student's artifact."""
    store, manifests, lost = artifact.store, {artifact.stage: artifact.manifest()}, []
    waiting = [*manifests[artifact.stage].inputs.items()]
    while waiting:
        stage, key = waiting.pop()
        if stage in manifests:
            continue
        try:
            manifests[stage] = Artifact(store, stage, key).manifest()
        except CorruptArtifact:
            lost.append(f"{stage}/{key}")
        else:
            waiting += manifests[stage].inputs.items()
    if "evaluation" not in manifests and (found := _evaluation_of(artifact)):
        manifests["evaluation"] = found
    return Lineage(artifact.stage, manifests, tuple(sorted(set(lost))))


def _evaluation_of(artifact: Artifact) -> Manifest | None:
    """Return the newest evaluation of a student."""
    found = []
    for key in artifact.store.folders("evaluation"):
        try:
            manifest = Artifact(artifact.store, "evaluation", key).manifest()
        except CorruptArtifact:
            continue
        if manifest.inputs.get(artifact.stage) == artifact.key:
            found.append(manifest)
    return max(found, key=lambda manifest: manifest.created_at, default=None)
