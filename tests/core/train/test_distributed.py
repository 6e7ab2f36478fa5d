"""Two gloo processes on a CPU train what one process trains. One pair does all the runs; starting it takes seconds."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from lightgen_core.config import ParallelConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.train.parallel import DistributedState, check_parallel
from tests.factories.tiny_student import (
    CHANNELS,
    PATCH,
    SIDE,
    tiny_training,
    write_buckets,
    write_features,
    write_rows,
)
from tests.programs.train_as_rank import DDP, KINDS, SHARDED, Interrupted, fitted
from tests.support.paths import PROGRAMS, ROOT

pytestmark = [pytest.mark.slow(rank=12), pytest.mark.usefixtures("one_thread")]

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder with all runs of two processes, and their logs by name."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "broken").mkdir()
    write_features(folder / "tokens.parquet", rows=10)
    write_buckets(folder, {(6, 6): 5, (4, 8): 4, (8, 4): 7, (2, 2): 0})
    write_rows(folder / "pairs.parquet", rows=10, images=("winner", "loser"))
    latents = np.random.default_rng(0).standard_normal((10, CHANNELS, SIDE, SIDE)).astype(np.float16)
    latents[7, 1, 2, 3] = np.inf
    write_rows(folder / "broken/tokens.parquet", rows=10, latents=[image.tobytes() for image in latents])
    with pytest.raises(Interrupted):
        fitted(folder, folder / "one", "v", DDP, dropout=0.0, until=4)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAMS / "train_as_rank.py"), str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return folder, json.loads((folder / "rows.json").read_text())


def losses(rows):
    return [value for row in rows for name, value in row.items() if name in ("loss", "alignment_loss")]


def last_bytes(folder):
    return {path.name: path.read_bytes() for path in (folder / "step-00000006").iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one(tmp_path, pair, kind):
    folder, rows = pair
    alone = fitted(folder, tmp_path, kind, ParallelConfig(), dropout=0.0).rows
    close = 1e-4 if kind == "muon" else 1e-6  # Muon rounds its gradients' directions to bf16
    assert losses(rows[f"ddp {kind}"]) == pytest.approx(losses(alone), rel=close)
    assert [row.keys() for row in rows[f"ddp {kind}"]] == [row.keys() for row in alone]


@pytest.mark.parametrize("kind", SHARDED)
def test_sharded_training_has_the_losses_of_one_process(tmp_path, pair, kind):
    folder, rows = pair
    alone = fitted(folder, tmp_path, kind, ParallelConfig(), dropout=0.0).rows
    assert losses(rows[f"fsdp {kind}"]) == pytest.approx(losses(alone), rel=1e-6)


def test_sharded_recomputed_compiled_training_has_equal_losses(tmp_path, pair):
    """Row by row too, they are the losses of one process."""
    folder, rows = pair
    alone = fitted(folder, tmp_path, "aligned", ParallelConfig(), dropout=0.0).rows
    assert losses(rows["frugal"]) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.parametrize(
    ("run", "kind", "plain", "tolerance"),
    [
        ("validated ddp", "v", "ddp v", 1e-6),
        ("validated fsdp", "aligned", "fsdp aligned", 1e-6),
        ("frugal", "aligned", None, 1e-5),
    ],
)
def test_two_processes_have_the_held_out_loss_of_one(tmp_path, pair, run, kind, plain, tolerance):
    """And train as they do without it: averages that fsdp has gathered are gone before the next step."""
    folder, rows = pair
    alone = fitted(folder, tmp_path, kind, ParallelConfig(), dropout=0.0, validate=True).rows
    measured = [[row["validation_loss"] for row in each if "validation_loss" in row] for each in (rows[run], alone)]
    assert len(measured[0]) == 3 and measured[0] == pytest.approx(measured[1], rel=tolerance)
    if plain:
        assert losses(rows[run]) == losses(rows[plain])


def test_dropout_is_equal_in_two_processes_and_two_micro_batches(tmp_path, pair):
    folder, rows = pair
    alone = fitted(folder, tmp_path, "v", ParallelConfig(micro_batch=2)).rows
    assert losses(rows["whole v"]) == pytest.approx(losses(alone), rel=1e-6)
    assert losses(rows["whole v"]) != pytest.approx(losses(rows["ddp v"]), rel=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "fsdp"])
def test_two_processes_resume_to_the_bytes_of_a_whole_run(pair, kind):
    """Six steps equal three saved and three more."""
    folder, rows = pair
    assert last_bytes(folder / f"parts-{kind}") == last_bytes(folder / f"whole-{kind}")
    assert rows[f"parts {kind}"] == rows[f"whole {kind}"] and len(rows[f"whole {kind}"]) == 6


def test_sharded_checkpoints_hold_whole_tensors_by_equal_names(pair):
    folder, _ = pair
    for name in FILES:
        sharded, replicated = (load_file(folder / run / "step-00000006" / name) for run in ("fsdp-ddpm", "ddp-ddpm"))
        shapes = [{key: tensor.shape for key, tensor in group.items()} for group in (sharded, replicated)]
        assert shapes[0] == shapes[1]


def test_two_sharded_processes_go_on_where_one_process_stopped(tmp_path, pair):
    folder, rows = pair
    alone = fitted(folder, tmp_path, "v", ParallelConfig(), dropout=0.0).rows
    assert losses(rows["two after one"]) == pytest.approx(losses(alone), rel=1e-6)
    assert rows["two after one"][:3] == alone[:3]


def test_both_processes_stop_at_a_bad_loss_and_name_its_row(pair):
    """Only one of them has the row."""
    folder, _ = pair
    source = TokenSource([folder / "broken/tokens.parquet"], patch=PATCH, batch_size=4, seed=7)
    bad = next(step for step in range(6) if 107 in source.batch(step).ids)
    first, second = ((folder / f"error-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second and first.startswith(f"step {bad}: the loss is not finite, rows 107;")


def test_processes_share_the_rows_of_a_batch():
    assert [list(DistributedState(rank, 3).rows(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 4 rows does not divide among 3 processes"):
        check_parallel(tiny_training(), 3)
