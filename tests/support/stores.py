"""Work that a test does on a store in place of a stage."""

from storage.artifact import Artifact
from storage.manifest import Manifest


def commit(artifact: Artifact, **counts: int) -> bool:
    """Write the manifest of what an artifact's records name; return whether this was the first one.

    counts: of the manifest, beside the rows.
    """
    files = tuple(sorted(artifact.records().values(), key=lambda entry: entry.name))
    manifest = Manifest(
        stage=artifact.stage,
        key=artifact.key,
        stage_version=1,
        config={},
        inputs={},
        files=files,
        counts={"rows": sum(file.rows for file in files)} | counts,
        timings={"seconds": 1.0},
        device_seconds=0.0,
        software={},
        host={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    return artifact.commit(manifest)
