"""A student that diverged, and captions without a pair: nothing crashes, and what happened is counted."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
import torch

from flows.load import load_recipe
from lightgen_core.encoders.dtypes import fits
from lightgen_core.evaluation.pair_rows import JudgedSamples, pair_rows, sample_rows
from lightgen_core.images.codec import encode_png
from storage.artifact import Artifact
from storage.open_store import open_store
from storage.store import Store
from tasks.config.settings import Settings
from tasks.context.context import StageContext
from tasks.dpo import dpo
from tasks.stage import Stage, stage

RECIPE = load_recipe("smoke")
ROW = {"id": 3, "caption": "a red circle", "topic": "t", "latents": b"teacher", "text": b"text", "text_length": 2}


def pairs_of(latents: torch.Tensor, scores: list[float], kind="best_worst") -> list[dict]:
    """The pair of one caption whose samples have these latents and scores; sample i is an image of grey level i."""
    images = np.stack([np.full((8, 8, 3), level, np.uint8) for level in range(len(scores))])
    teacher = [encode_png(np.full((8, 8, 3), 255, np.uint8))]
    judged = JudgedSamples.of(images, latents, range(len(scores)), np.array([scores]), len(scores), "float16")
    return pair_rows([ROW], judged, teacher, np.ones(1), kind=kind, margin=0.5)


def images_of(pair: dict) -> list[bytes]:
    return [pair[name]["bytes"] for name in ("winner_image", "loser_image")]


def test_samples_beyond_the_stored_format_are_in_no_pair():
    """The worst and the best sample do not fit float16; the next ones are taken."""
    latents = torch.zeros(4, 1, 2, 2)
    latents[0, 0, 1, 1], latents[3, 0, 0, 0] = 1e6, float("nan")
    (pair,) = pairs_of(latents, [0.0, 0.2, 0.8, 1.0])
    assert images_of(pair) == [encode_png(np.full((8, 8, 3), level, np.uint8)) for level in (2, 1)]


def test_a_sample_beyond_the_stored_format_keeps_no_latents():
    latents = torch.zeros(2, 1, 2, 2)
    latents[1, 0, 0, 0] = float("inf")
    judged = JudgedSamples.of(np.zeros((2, 8, 8, 3), np.uint8), latents, [5, 6], np.array([0.0, 1.0]), 2, "float16")
    kept, lost = sample_rows([ROW], judged)
    assert (kept["latents"], kept["seed"], kept["score"]) == (bytes(8), 5, 0.0)
    assert (lost["latents"], lost["seed"], lost["score"], lost["sample"]) == (None, 6, 1.0, 1)


@pytest.mark.parametrize("kind", ["teacher", "best_worst", "both", "ranked"])
def test_a_caption_whose_samples_all_diverged_gives_no_pair(kind):
    assert pairs_of(torch.full((2, 1, 2, 2), float("inf")), [0.0, 1.0], kind) == []


def test_a_row_fits_if_every_value_does():
    values = torch.tensor([[1.0, 65504.0], [1.0, 65536.0], [float("nan"), 0.0], [float("-inf"), 0.0]])
    assert fits(values, "float16").tolist() == [True, False, False, False]
    assert fits(values, "bfloat16").tolist() == [True, True, False, False]


def made(what: Stage, store: Store, *inputs: Artifact) -> Artifact:
    artifact = what.artifact(RECIPE, store, inputs)
    what.run(RECIPE, Settings(), inputs, artifact, remake_before=datetime.datetime.now(datetime.UTC))
    return artifact


@pytest.mark.parametrize(
    ("rows", "fell", "reason"),
    [(0, None, "there is no pair to learn from"), (3, "the held-out score fell", "the held-out score fell")],
)
def test_without_pairs_or_after_a_fall_the_student_stays_as_is(tmp_path, rows, fell, reason):
    @stage(version=1, config_sections=())
    def pretrain(ctx: StageContext) -> None:
        ctx.write("student/config.json", b"{}")
        ctx.write("student/ema.safetensors", b"weights")

    @stage(version=1, config_sections=())
    def pairs(ctx: StageContext) -> None:
        ctx.write_table("pairs-00000.parquet", pa.table({"id": pa.array(range(rows), pa.int64())}))
        ctx.metrics = {"stopped": fell, "first_round": {"score": 0.25}}

    store = open_store(str(tmp_path))
    manifest = (tuned := made(dpo, store, made(pretrain, store), made(pairs, store))).manifest()
    assert tuned.open("student/ema.safetensors").read() == b"weights"
    assert manifest.counts == {"rows": 0, "steps": 0}
    assert manifest.metrics == {"stopped": reason, "last": {}, "first_round": {"score": 0.25}}
