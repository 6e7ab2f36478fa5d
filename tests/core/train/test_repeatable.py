"""The demo's own student, precision and optimizer on two threads: equal runs have equal bytes, killed or not."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flows.load import load_recipe
from lightgen_core.data.batches import TokenSource
from lightgen_core.model.mar import new_student
from tests.factories.tiny_student import train

ROWS, WORDS = 192, 9
LAYOUT = {"dtype": "float16", "channels": 16, "height": 6, "width": 6, "text_width": 128}


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Random tokens in the demo's shapes."""
    rng = np.random.default_rng(0)
    columns = {
        "id": pa.array(range(ROWS), pa.int64()),
        "latents": [rng.standard_normal(16 * 6 * 6).astype(np.float16).tobytes() for _ in range(ROWS)],
        "text": [rng.standard_normal(WORDS * 128).astype(np.float16).tobytes() for _ in range(ROWS)],
        "text_length": pa.array([WORDS] * ROWS, pa.int32()),
    }
    path = tmp_path_factory.mktemp("tokens") / "tokens.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata({"lightgen": json.dumps(LAYOUT)}), path)
    return path


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def weights(tokens, folder, kind, kill_at=None):
    """The student's weights after eight steps; `kill_at` interrupts a first run there."""
    overrides = [
        "pretrain.steps=8",
        "pretrain.log_every=1",
        "pretrain.checkpoint_every=2",
        "pretrain.optimizer.name=" + kind,
    ]
    config = load_recipe("demo", overrides).pretrain

    def on_log(row):
        if row["step"] == kill_at:
            raise Interrupted

    model = config.model.resolve(token_width=64, text_width=128, position_grid=3)
    student = new_student(model, config.head, 1)
    source = TokenSource([tokens], patch=2, batch_size=config.batch_size, seed=1)
    train(student, source, config, seed=1, folder=folder, device=torch.device("cpu"), on_log=on_log)
    return student.state_dict()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_equal_runs_on_two_threads_have_equal_weights(tmp_path, tokens, two_threads, kind):
    """A run that was interrupted and resumed has them too."""
    whole, again = weights(tokens, tmp_path / "whole", kind), weights(tokens, tmp_path / "again", kind)
    with pytest.raises(Interrupted):
        weights(tokens, tmp_path / "killed", kind, kill_at=5)
    resumed = weights(tokens, tmp_path / "killed", kind)
    assert all(again[name].equal(whole[name]) for name in whole)
    assert all(resumed[name].equal(whole[name]) for name in whole)


PRODUCTS = """
import hashlib, sys, torch
from lightgen_core.device import pick_device
pick_device("cpu", int(sys.argv[1]))
torch.manual_seed(0)
told = hashlib.sha256()
for rows, inner, columns in [(13, 512, 128), (77, 1024, 64), (16, 2048, 96), (128, 4096, 33), (3, 700, 1000)]:
    told.update((torch.randn(rows, inner) @ torch.randn(inner, columns)).numpy().tobytes())
print(told.hexdigest())
"""


def test_products_are_the_same_with_any_number_of_threads():
    command = [sys.executable, "-c", PRODUCTS]
    told = {subprocess.run([*command, str(threads)], capture_output=True, text=True).stdout for threads in (1, 2, 3)}
    assert len(told) == 1 and len(told.pop().strip()) == 64
