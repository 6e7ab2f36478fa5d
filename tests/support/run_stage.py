"""Runs the synthesis stage alone: captions go in as an artifact, the tables and the manifest come out."""

import datetime
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.open_store import open_store
from storage.tables import read_table
from tasks.captions import SCHEMA
from tasks.config.recipe import Recipe
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.stage import Stage, stage
from tasks.synthesis import synthesis


@dataclass(frozen=True)
class StageResult:
    """All that a stage left in the store."""

    artifact: Artifact
    images: pa.Table
    quarantine: pa.Table
    manifest: Manifest


def captions_stage(captions: list[str]) -> Stage:
    """A stage that gives these captions; other captions, another key."""

    @stage(version=1 + zlib.crc32(repr(captions).encode()), config_sections=())
    def captions_(ctx: StageContext) -> None:
        rows = [
            {"id": 10 + n, "caption": text, "topic": f"topic {n % 2}", "meaning": text, "source": "test"}
            for n, text in enumerate(captions)
        ]
        ctx.write_table("captions.parquet", pa.Table.from_pylist(rows, SCHEMA))

    return captions_


def recipe_of(**asked: Any) -> Recipe:
    """A recipe with this synthesis section."""
    return Recipe(name="test", synthesis=asked)


def run_recipe(tmp_path: Path, captions: list[str], recipe: Recipe, settings: Settings | None = None) -> StageResult:
    """Make captions and images in a store below `tmp_path`."""
    store = open_store(str(tmp_path / "store"))
    settings = settings or Settings(device="cpu", threads=1)
    given = captions_stage(captions).artifact(recipe, store, ())
    captions_stage(captions).run(recipe, settings, (), given, remake_before=datetime.datetime.now(datetime.UTC))
    artifact = synthesis.artifact(recipe, store, (given,))
    synthesis.run(recipe, settings, (given,), artifact)
    tables = (read_table(artifact, pattern) for pattern in ("^images", "^quarantine"))
    return StageResult(artifact, *tables, artifact.manifest())


def run_synthesis(
    tmp_path: Path, captions: list[str], *, count: int = 100_000, shard_size: int = 100, **files: Any
) -> StageResult:
    """Run synthesis with an image set for a teacher."""
    asked = {"teacher": "files", "files": {key: str(v) if key == "path" else v for key, v in files.items()}}
    return run_recipe(tmp_path, captions, recipe_of(count=count, shard_size=shard_size, **asked))
