"""Why an artifact was never made: in what it differs from the nearest one that its stage has made."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from storage.artifact import Artifact, CorruptArtifact
from storage.manifest import MANIFEST, Manifest
from storage.store import Store

LOOKED_AT = 16
"""Manifests that are read: the newest on this machine's disk, any where a listing tells no times."""

FEW = 4
"""Fields in which an artifact may differ and still be called near."""

LONGEST = 40
"""Signs of a field's value that are shown."""

_NOTHING = object()


@dataclass(frozen=True)
class Wanted:
    """What enters the key of an artifact that is not there: version of the stage's code, configuration, input keys."""

    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    def unlike(self, made: Manifest) -> tuple[list[str], list[str]]:
        """Return the fields, in words, and the inputs in which an artifact that was made differs."""
        fields = [_told(*found) for found in _differences(self.config, made.config)]
        if self.version != made.stage_version:
            fields.append(f"the version of the stage: {self.version}, there {made.stage_version}")
        return fields, [name for name, key in self.inputs.items() if made.inputs.get(name) != key]


def never_made(artifact: Artifact, wanted: Wanted) -> str:
    """Say that an artifact was never made, and how it differs from the nearest of its stage, if one is near."""
    compared = [(made, *wanted.unlike(made)) for made in _made(artifact.store, artifact.stage)]
    compared.sort(key=lambda each: each[0].created_at, reverse=True)
    made, fields, inputs = min(compared, key=lambda each: (len(each[1]), len(each[2])), default=(None, [], []))
    if made is None or len(fields) > FEW:
        return "never made"
    if inputs:
        fields.append(f"its input {inputs[0]}" if len(inputs) == 1 else f"{len(inputs)} of its inputs")
    if not fields:
        return "never made"
    return f"never made; differs from {made.key[:8]} (made {made.created_at[:10]}) in {'; '.join(fields)}"


def _made(store: Store, stage: str) -> list[Manifest]:
    """Return some manifests of a stage; folders without one are passed over."""

    def read(key: str) -> Manifest | None:
        with contextlib.suppress(CorruptArtifact):
            return Artifact(store, stage, key).manifest()
        return None

    keys = sorted(store.folders(stage), key=lambda key: -_written(store, f"{stage}/{key}/{MANIFEST}"))
    with ThreadPoolExecutor(LOOKED_AT) as pool:
        return [made for made in pool.map(read, keys[:LOOKED_AT]) if made]


def _written(store: Store, path: str) -> float:
    """Return when a file on this machine's disk was written; 0 where it is elsewhere, or not there."""
    here = store.local_path(path)
    with contextlib.suppress(FileNotFoundError):
        return here.stat().st_mtime if here else 0.0
    return 0.0


def _differences(
    here: Mapping[str, Any], there: Mapping[str, Any], *path: str
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield path and both values of every field in which two configurations differ."""
    for name in {**here, **there}:
        ours, theirs = here.get(name, _NOTHING), there.get(name, _NOTHING)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(ours, theirs, *path, name)
        elif ours != theirs and not (_NOTHING in (ours, theirs) and (*path, name)[0] in ("weights", "files")):
            yield (*path, name), ours, theirs  # which weights and files are read, a field of the recipe says


def _told(path: tuple[str, ...], ours: Any, theirs: Any) -> str:
    if path[0] == "weights":
        return f"the weights of {path[1]}"
    if path[0] == "files":
        return f"the content of {path[1]}"
    return f"{'.'.join(path)}: {_value(ours)}, there {_value(theirs)}"


def _value(value: Any) -> str:
    text = "nothing" if value is _NOTHING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
