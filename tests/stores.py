"""Stores of every kind for tests that hold for all of them."""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from s3_server import s3_server

from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.store import Store

OF_A_USER = os.environ.get("LIGHTGEN_TEST_STORE")
"""Address of an empty place: the contract is tested there instead of on an S3 server of the tests' own."""

KINDS = ["local", "memory", OF_A_USER or "s3"]


@contextmanager
def stores() -> Iterator[object]:
    """Yield a function `(kind, folder)` that gives an empty store; an S3 server is started for the first that asks."""
    with ExitStack() as stack:

        @cache
        def server() -> str:
            return stack.enter_context(s3_server())

        def make(kind: str, folder: Path) -> Store:
            name = uuid.uuid4().hex
            if kind == "local":
                return Store(str(folder / name))
            return Store(
                {"memory": f"memory://{name}", "s3": ""}.get(kind) or f"{server() if kind == 's3' else kind}/{name}"
            )

        yield make


def commit(artifact: Artifact) -> bool:
    """Write the manifest of what an artifact's records name; return whether this was the first one."""
    files = tuple(sorted(artifact.records().values(), key=lambda entry: entry.name))
    manifest = Manifest(
        stage=artifact.stage,
        key=artifact.key,
        stage_version=1,
        config={},
        inputs={},
        files=files,
        counts={"rows": sum(file.rows for file in files)},
        timings={"seconds": 1.0},
        device_seconds=0.0,
        software={},
        host={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    return artifact.commit(manifest)
