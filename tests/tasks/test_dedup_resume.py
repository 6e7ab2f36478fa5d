"""The stage dedup, interrupted: it goes on after the last block and writes the same bytes."""

import numpy as np
import pyarrow as pa
import pytest

from flows.load import load_recipe
from lightgen_core.dedup import greedy
from storage.artifact import Artifact
from storage.open_store import open_store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.dedup import dedup
from tasks.stage import stage
from tests.factories.vectors import unit

ROWS, BLOCK = 40, 8
COLUMNS = {name: [str(row) for row in range(ROWS)] for name in ("topic", "caption")} | {"meaning": ["one"] * ROWS}


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(greedy, "BLOCK", BLOCK)


@stage(version=1, config_sections=())
def synthesis(ctx: StageContext) -> None:
    ctx.write_table("images-00000.parquet", pa.table({"id": range(ROWS)} | COLUMNS))


@stage(version=1, config_sections=())
def embeddings(ctx: StageContext) -> None:
    base = unit(np.random.default_rng(0).normal(size=(ROWS // 2, 16)))
    image = pa.FixedSizeListArray.from_arrays(np.concatenate([base, base[::-1]]).ravel(), 16)
    columns = {"id": range(ROWS), "image": image, "score": np.arange(ROWS, dtype=np.float32)}
    ctx.write_table("embeddings-00000.parquet", pa.table(columns | {"pixels": COLUMNS["topic"]}))


def made(folder, interrupt_at: int | None = None) -> tuple[Artifact, list[int]]:
    """Return the dedup artifact of a store, and the rows that were reported."""
    store, recipe, inputs, seen = open_store(str(folder)), load_recipe("smoke"), [], []
    for what in (synthesis, embeddings):
        inputs.append(what.artifact(recipe, store, ()))
        what.run(recipe, Settings(device="cpu"), (), inputs[-1])
    artifact = dedup.artifact(recipe, store, tuple(inputs))

    def on_progress(progress):
        seen.append(progress.done)
        if progress.done == interrupt_at:
            raise Interrupted

    dedup.run(recipe, Settings(device="cpu"), tuple(inputs), artifact, on_progress=on_progress)
    return artifact, seen


def test_an_interrupted_dedup_goes_on_and_writes_equal_bytes(tmp_path, monkeypatch):
    whole, seen = made(tmp_path / "whole")
    with pytest.raises(Interrupted):
        made(tmp_path / "store", interrupt_at=3 * BLOCK)
    decided, decide = [], greedy.GreedySelector._decide
    monkeypatch.setattr(
        greedy.GreedySelector, "_decide", lambda self, places: decided.append(int(places[0])) or decide(self, places)
    )
    again, _ = made(tmp_path / "store")
    assert (seen, decided) == ([8, 16, 24, 32, 40], [24, 32])
    assert again.store.read(f"{again.path}/keep.parquet") == whole.store.read(f"{whole.path}/keep.parquet")
    assert whole.manifest().counts["dropped"] == ROWS // 2
