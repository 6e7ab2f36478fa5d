"""The difference between a missing artifact and the nearest one that its stage has made."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import MANIFEST, Manifest
from storage.store import Store

MAX_MANIFESTS = 16
"""Manifests to read: the newest on a local disk, any in a store that lists no times."""

MAX_FIELDS = 4
"""Fields in which an artifact may differ and still count as near."""

MAX_CHARACTERS = 40
"""Characters of a field's value that are shown."""

_MISSING = object()


def explain_missing(artifact: Artifact, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return a sentence on how a missing artifact differs from the nearest of its stage, if one is near.

    The version of the stage's code, configuration and input keys are those that entered its key.
    """
    candidates = []
    manifests = newest_manifests(artifact.store, artifact.stage, MAX_MANIFESTS)
    for manifest in sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True):
        fields = [_describe(*difference) for difference in _differences(config, manifest.config)]
        if version != manifest.stage_version:
            fields.append(f"the version of the stage: {version}, there {manifest.stage_version}")
        names = [name for name, key in inputs.items() if manifest.inputs.get(name) != key]
        candidates.append((fields, names, manifest))
    if not candidates:
        return "never made"
    fields, names, nearest = min(candidates, key=lambda candidate: (len(candidate[0]), len(candidate[1])))
    if len(fields) > MAX_FIELDS or not (fields or names):
        return "never made"
    if names:
        fields.append(f"its input {names[0]}" if len(names) == 1 else f"{len(names)} of its inputs")
    return f"never made; differs from {nearest.key[:8]} (made {nearest.created_at[:10]}) in {'; '.join(fields)}"


def newest_manifests(store: Store, stage: str, limit: int) -> list[Manifest]:
    """Return some manifests of a stage, newest first; skip folders without one."""

    def read(key: str) -> Manifest | None:
        with contextlib.suppress(CorruptArtifact):
            return Artifact(store, stage, key).manifest()
        return None

    def modified_at(key: str) -> float:
        path = store.local_path(f"{stage}/{key}/{MANIFEST}")
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime if path else 0.0
        return 0.0

    keys = sorted(store.folders(stage), key=modified_at, reverse=True)
    with ThreadPoolExecutor(MAX_MANIFESTS) as pool:
        return [manifest for manifest in pool.map(read, keys[:limit]) if manifest]


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
