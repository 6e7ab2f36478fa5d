"""Means over the student's samples, and the falls that end a tuning."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightgen_core.encoders.dtypes import from_bytes, to_bytes
from lightgen_core.evaluation.sample_metrics import reward_hacking, sample_metrics


def samples(
    latents: list[list[float] | None], ids: list[int], scores: list[float], held_out: list[float] | None = None
):
    stored = [None if values is None else to_bytes(np.array(values), "bfloat16") for values in latents]
    watched = held_out or [None] * len(ids)
    return pa.table({"id": ids, "score": scores, "held_out": pa.array(watched, pa.float64()), "latents": stored})


def test_diversity_is_the_mean_distance_of_a_captions_samples():
    """Distances 2, 2 and 0 of one caption, mean 4/3; 1 of the other: samples of two captions are not compared."""
    table = samples([[0, 0], [2, 2], [0, 0], [8, 8], [9, 9]], [1, 1, 1, 2, 2], [1, 0, 1, 1, 0], [0.5] * 5)
    found = sample_metrics([table], "bfloat16")
    assert found == pytest.approx({"score": 0.6, "held_out": 0.5, "diversity": (4 / 3 + 1) / 2})


def test_samples_without_latents_have_no_part_in_diversity():
    found = sample_metrics([samples([[1, 1], None, [4, 4]], [1, 1, 1], [0, 0, 1])], "bfloat16")
    assert found == {"score": pytest.approx(1 / 3), "held_out": None, "diversity": 3.0}
    assert sample_metrics([samples([[1, 1]], [1], [1])], "bfloat16")["diversity"] == 0.0


@pytest.mark.parametrize(
    ("name", "now", "stops"),
    [("diversity", 0.71, False), ("diversity", 0.69, True), ("held_out", 0.1, True), ("score", 0.34, True)],
)
def test_a_fall_beyond_the_share_stops(name, now, stops):
    first = {"score": 0.5, "diversity": 1.0, "held_out": 0.25}
    reason = reward_hacking(first | {"score": 0.9, name: now}, first, 0.3)
    assert (reason is not None) == stops
    if reason is not None:
        assert f"fell from {first[name]:.3f} to {now:.3f}" in reason and "pairs.max_drop" in reason


def test_without_a_held_out_scorer_the_others_are_watched():
    first = {"score": 0.5, "diversity": 1.0, "held_out": None}
    assert reward_hacking(first, first, 0.0) is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_values_come_back(dtype):
    values = torch.tensor([[0.5, -2.0], [1024.0, 0.0]])
    assert torch.equal(from_bytes(to_bytes(values, dtype), dtype), values.flatten())
