"""The ablations of a store that tell of a report's student."""

import json
import logging
from typing import TYPE_CHECKING, Any

from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import Manifest
from storage.plural import pluralize
from storage.store import Store

if TYPE_CHECKING:
    from lightgen_core.report.ablations import ShownAblation

KEPT_BESIDE = frozenset({"keep_steps", "previews", "preview_captions"})
"""Fields of `pretrain` by which a training keeps more and learns the same."""

log = logging.getLogger("lightgen")


def ablations_of(report: Artifact) -> "list[ShownAblation]":
    """Return the finished ablations with a point whose training was that of a report's student, the oldest first.

    Those that cannot be told, since their evaluations were cleaned up, are counted in a warning.
    """
    store, found, unknown = report.store, [], 0
    for key in store.folders("ablation"):
        artifact = Artifact(store, "ablation", key)
        try:
            manifest = artifact.manifest()
        except CorruptArtifact:  # unfinished
            continue
        try:
            if _has_training_of(report, manifest):
                found.append((manifest.created_at, _shown(artifact, manifest)))
        except CorruptArtifact:
            unknown += 1
    if unknown:
        log.warning("%s not shown: files that they need are no longer in %s", pluralize(unknown, "ablation"), store.uri)
    return [shown for _, shown in sorted(found, key=lambda each: each[0])]


def _has_training_of(report: Artifact, ablation: Manifest) -> bool:
    """Return whether a point was trained as a report's student. Raises CorruptArtifact if its evaluation is lost."""
    store, own = report.store, report.manifest().inputs["pretrain"]
    evaluations = [Artifact(store, "evaluation", key) for key in ablation.inputs.values()]
    keys = {evaluation.manifest().inputs["pretrain"] for evaluation in evaluations}
    return own in keys or _training(store, own) in [_training(store, key) for key in keys]


def _training(store: Store, key: str) -> tuple[Any, ...]:
    """Return what decides a pre-trained student's weights."""
    manifest = Artifact(store, "pretrain", key).manifest()
    fields = {name: value for name, value in manifest.config["pretrain"].items() if name not in KEPT_BESIDE}
    return manifest.stage_version, manifest.inputs, manifest.config | {"pretrain": fields}


def _shown(artifact: Artifact, manifest: Manifest) -> "ShownAblation":
    from lightgen_core.intervals import Interval
    from lightgen_core.report.ablations import AblationPoint, ShownAblation

    with artifact.open("results.json") as file:
        result = json.load(file)
    with artifact.open("figure.svg") as file:
        figure = file.read().decode()
    changes = {each["later"]: each["scores"]["overall"] for each in result["differences"] if each["earlier"] == 0}
    points = [
        AblationPoint(
            [f"{value:,}" if type(value) is int else str(value) for value in point["values"].values()],
            Interval(**point["scores"]["overall"]),
            Interval(**changes[number]) if number in changes else None,
        )
        for number, point in enumerate(result["points"])
    ]
    return ShownAblation(
        artifact.key[:8], manifest.created_at, result["axes"], result["seeds"], result["intervals"], points, figure
    )
