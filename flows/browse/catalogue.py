"""Runs in a store, known by the lineage in its manifests, with the state of every stage."""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from flows.distill import ALL_NAMES, NAMES
from flows.plan import Planner
from storage.artifact import Artifact, ArtifactStatus, CorruptArtifact
from storage.manifest import Manifest
from storage.store import Store

THREADS = 16
"""Manifests read at once: in a remote store each is a request."""


@dataclass(frozen=True)
class Known:
    """An artifact of the store with its state; `manifest` is None if it is unfinished or illegible."""

    artifact: Artifact
    status: ArtifactStatus
    manifest: Manifest | None

    @property
    def version(self) -> str:
        """Text that changes if the artifact is made again with other bytes."""
        hashes = "".join(entry.sha256 for entry in self.manifest.files) if self.manifest else ""
        return hashlib.sha256(hashes.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredRun:
    """Artifacts that belong together: an artifact that no other one reads, and all that it was made from.

    stages: by label, which is the stage, and in later rounds of preference tuning `pairs-2`, `dpo-2`.
    lacking: stage -> why there is no artifact of it.
    """

    id: str
    title: str
    stages: Mapping[str, Known]
    lacking: Mapping[str, str] = field(default_factory=dict)

    def done(self, stage: str) -> dict[str, Known]:
        """Return the finished artifacts of a stage by label, first rounds first."""
        found = {label: known for label, known in self.stages.items() if known.artifact.stage == stage}
        return {label: found[label] for label in sorted(found, key=_round) if found[label].status.state == "done"}

    def why_not(self, stage: str) -> str:
        """Return why a stage has no finished artifact, in a line."""
        for label, known in self.stages.items():
            if known.artifact.stage == stage and known.status.state != "done":
                return f"{label} is {known.status.state}: {known.status.reason}"
        return f"{stage} is missing: {self.lacking.get(stage, 'never made')}"

    @property
    def states(self) -> list[dict[str, str]]:
        """State and reason of each stage, in the order of the pipeline."""
        rows = [
            {"stage": label, "state": known.status.state, "why": known.status.reason}
            for label, known in self.stages.items()
        ]
        rows += [{"stage": stage, "state": "missing", "why": why} for stage, why in self.lacking.items()]
        return sorted(rows, key=lambda row: (ALL_NAMES.index(row["stage"].partition("-")[0]), _round(row["stage"])))


def read_catalogue(store: Store) -> dict[str, Known]:
    """Return every artifact of a store by its path; files are compared by size alone."""
    artifacts = [Artifact(store, stage, key) for stage in ALL_NAMES for key in store.folders(stage)]
    with ThreadPoolExecutor(THREADS) as threads:
        return {known.artifact.path: known for known in threads.map(look_at, artifacts)}


def look_at(artifact: Artifact) -> Known:
    """Return an artifact with its state; a file is compared by its size alone."""
    try:
        manifest = artifact.manifest()
    except CorruptArtifact:
        manifest = None
    return Known(artifact, artifact.check(sizes_only=True), manifest)


def runs_of(catalogue: Mapping[str, Known]) -> list[StoredRun]:
    """Return the runs of a store, the newest first."""
    manifests = {path: known.manifest for path, known in catalogue.items() if known.manifest}
    read = {_path(*given) for manifest in manifests.values() for given in manifest.inputs.items()}
    last = sorted(manifests.keys() - read, key=lambda path: manifests[path].created_at, reverse=True)
    return [_run_of(catalogue[path], catalogue) for path in last]


def planned_run(planner: Planner) -> StoredRun:
    """Return the run of a recipe as it stands, whether or not anything of it is made."""
    stages: dict[str, Known] = {}
    for label, planned in planner.stages.items():
        known = look_at(planned.artifact)
        if known.status.state == "missing":
            why = planned.stage.explain_missing(planned.recipe, planned.inputs, planned.artifact)
            known = Known(known.artifact, ArtifactStatus("missing", why), None)
        stages[label] = known
    return StoredRun("recipe", f"{planner.recipe.name}, as the recipe stands", stages)


def _run_of(last: Known, catalogue: Mapping[str, Known]) -> StoredRun:
    """Return the run that ends with an artifact."""
    stages: dict[str, Known] = {}
    waiting = [(_label_of(last), last.artifact.path)]
    seen: set[str] = set()
    while waiting:
        label, path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        known = catalogue.get(path) or _gone(last.artifact.store, path)
        stages[f"{label}-{known.artifact.key[:8]}" if label in stages else label] = known
        if known.manifest:
            waiting += [(label, _path(label, key)) for label, key in known.manifest.inputs.items()]
    there = {known.artifact.stage for known in stages.values()}
    lacking = {stage: _unfinished(stage, catalogue.values()) for stage in NAMES if stage not in there}
    return StoredRun(last.artifact.path, _title(last), stages, lacking)


def _title(last: Known) -> str:
    manifest, artifact = last.manifest, last.artifact
    assert manifest is not None, "a run ends with a finished artifact"
    name = str(manifest.config.get("name", "")) if artifact.stage == "report" else f"up to {artifact.stage}"
    return f"{name}, {manifest.created_at[:16].replace('T', ' ')}, {artifact.stage}/{artifact.key[:8]}"


def _label_of(last: Known) -> str:
    """Return the label of an artifact that nobody names: that of `dpo` follows from its pairs."""
    inputs = last.manifest.inputs if last.manifest else {}
    pairs = next((label for label in inputs if label.startswith("pairs")), "pairs")
    return last.artifact.stage + (pairs.removeprefix("pairs") if last.artifact.stage == "dpo" else "")


def _path(label: str, key: str) -> str:
    return f"{label.partition('-')[0]}/{key}"


def _gone(store: Store, path: str) -> Known:
    stage, _, key = path.partition("/")
    return Known(Artifact(store, stage, key), ArtifactStatus("missing", "it is no longer in the store"), None)


def _unfinished(stage: str, catalogue: Iterable[Known]) -> str:
    """Return what the store has of a stage that a run does not reach."""
    for known in catalogue:
        if known.artifact.stage == stage and known.status.state in ("partial", "damaged"):
            return f"not made in this run yet; {known.artifact.path} is {known.status.state}: {known.status.reason}"
    return "not made in this run yet"


def _round(label: str) -> tuple[str, int]:
    """Order `pairs`, `pairs-2`, `pairs-10`, `pairs-sft`."""
    name, _, number = label.rpartition("-")
    return (name, int(number)) if number.isdigit() and len(number) < 4 else (label, 1)
