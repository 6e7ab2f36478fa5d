"""The difference between a missing artifact and the nearest one that its stage has made."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from storage.artifact import Artifact, DamagedArtifact
from storage.manifest import MANIFEST, Manifest
from storage.store import Store

MAX_MANIFESTS = 16
"""Manifests to read: the newest on a local disk, any in a store that lists no times."""

MAX_FIELDS = 4
"""Fields in which an artifact may differ and still count as near."""

MAX_CHARACTERS = 40
"""Characters of a field's value that are shown."""

_MISSING = object()


@dataclass(frozen=True)
class ArtifactIdentity:
    """The values that enter an artifact's key: version of the stage's code, configuration, input keys."""

    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    def diff(self, manifest: Manifest) -> tuple[list[str], list[str]]:
        """Return the fields, described, and the names of the inputs in which a finished artifact differs."""
        fields = [_describe(*difference) for difference in _differences(self.config, manifest.config)]
        if self.version != manifest.stage_version:
            fields.append(f"the version of the stage: {self.version}, there {manifest.stage_version}")
        return fields, [name for name, key in self.inputs.items() if manifest.inputs.get(name) != key]


def explain_missing(artifact: Artifact, identity: ArtifactIdentity) -> str:
    """Return a sentence on how a missing artifact differs from the nearest of its stage, if one is near."""
    candidates = [(manifest, *identity.diff(manifest)) for manifest in _manifests(artifact.store, artifact.stage)]
    candidates.sort(key=lambda candidate: candidate[0].created_at, reverse=True)
    nearest, fields, inputs = min(
        candidates, key=lambda candidate: (len(candidate[1]), len(candidate[2])), default=(None, [], [])
    )
    if nearest is None or len(fields) > MAX_FIELDS:
        return "never made"
    if inputs:
        fields.append(f"its input {inputs[0]}" if len(inputs) == 1 else f"{len(inputs)} of its inputs")
    if not fields:
        return "never made"
    return f"never made; differs from {nearest.key[:8]} (made {nearest.created_at[:10]}) in {'; '.join(fields)}"


def _manifests(store: Store, stage: str) -> list[Manifest]:
    """Return some manifests of a stage, newest first; skip folders without one."""

    def read(key: str) -> Manifest | None:
        with contextlib.suppress(DamagedArtifact):
            return Artifact(store, stage, key).manifest()
        return None

    keys = sorted(store.folders(stage), key=lambda key: -_modified_at(store, f"{stage}/{key}/{MANIFEST}"))
    with ThreadPoolExecutor(MAX_MANIFESTS) as pool:
        return [manifest for manifest in pool.map(read, keys[:MAX_MANIFESTS]) if manifest]


def _modified_at(store: Store, path: str) -> float:
    """Return the modification time of a local file; 0 if it is remote or missing."""
    local = store.local_path(path)
    with contextlib.suppress(FileNotFoundError):
        return local.stat().st_mtime if local else 0.0
    return 0.0


def _differences(
    expected: Mapping[str, Any], actual: Mapping[str, Any], *path: str
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield path and both values of every field in which two configurations differ."""
    for name in {**expected, **actual}:
        left, right = expected.get(name, _MISSING), actual.get(name, _MISSING)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differences(left, right, *path, name)
        elif left != right and not (_MISSING in (left, right) and (*path, name)[0] in ("weights", "files")):
            yield (*path, name), left, right  # a recipe field already names the weights and files that are read


def _describe(path: tuple[str, ...], expected: Any, actual: Any) -> str:
    if path[0] == "weights":
        return f"the weights of {path[1]}"
    if path[0] == "files":
        return f"the content of {path[1]}"
    return f"{'.'.join(path)}: {_format(expected)}, there {_format(actual)}"


def _format(value: Any) -> str:
    text = "nothing" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."
