"""Sharded training by two and by three gloo processes: Muon, bf16, and what the processes send each other."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from lightgen_core.config import ParallelConfig
from tests.factories.tiny_student import write_rows
from tests.programs.shard_as_rank import MUON, Interrupted, fitted
from tests.support.paths import PROGRAMS, ROOT

pytestmark = [pytest.mark.slow(rank=13), pytest.mark.usefixtures("one_thread")]

ALONE = ParallelConfig(micro_batch=2)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """All runs of two processes; see `run_processes`."""
    return run_processes(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module", params=["two", "three"])
def ran(request, tmp_path_factory, two):
    """The runs with Muon of two and of three processes; the three's shares of 16 rows are 6, 6 and 4."""
    return two if request.param == "two" else run_processes(tmp_path_factory.mktemp("three"), 3)


def run_processes(folder, count):
    """Return the folder with all runs of so many processes, and their results by name."""
    write_rows(folder / "tokens.parquet", rows=20)
    with pytest.raises(Interrupted):
        fitted(folder, folder / "one", ALONE, until=4, optimizer=MUON)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAMS / "shard_as_rank.py"), str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank), str(count)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)
    return folder, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The rows of one process on the same tokens, by optimizer and precision."""
    folder = tmp_path_factory.mktemp("alone")
    write_rows(folder / "tokens.parquet", rows=20)
    return {
        "muon": fitted(folder, folder / "muon", ALONE, optimizer=MUON).rows,
        "bf16": fitted(folder, folder / "bf16", ALONE, precision="bf16").rows,
    } | {"folder": folder}


def of(rows, name):
    return [row[name] for row in rows]


def last(folder, name):
    return load_file(folder / "step-00000006" / f"{name}.safetensors")


def test_sharded_muon_trains_as_one_process(ran, alone):
    """Losses to 1e-5, weights to 1e-4 where an update may be 3e-3.

    Gradients are summed in another order, and AdamW, which trains the vectors, divides small ones by themselves.
    """
    folder, results = ran
    for name in ("loss", "gradient_norm"):
        assert of(results["muon"], name) == pytest.approx(of(alone["muon"], name), rel=1e-5)
    mine, whole = last(folder / "muon", "model"), last(alone["folder"] / "muon", "model")
    assert mine.keys() == whole.keys()
    for name, weight in whole.items():
        assert (mine[name] - weight).abs().max() < 1e-4, name


def test_sharded_muon_resumes_to_the_bytes_of_a_whole_run(ran):
    folder, results = ran
    assert results["muon in parts"] == results["muon"]
    whole, parts = (
        {path.name: path.read_bytes() for path in (folder / run / "step-00000006").iterdir()}
        for run in ("muon", "parts")
    )
    assert whole == parts


def test_sharded_muon_goes_on_where_one_process_stopped(ran, alone):
    _, results = ran
    assert of(results["two after one"], "loss") == pytest.approx(of(alone["muon"], "loss"), rel=1e-5)
    assert results["two after one"][:3] == alone["muon"][:3]


def test_bf16_sharded_trains_as_replicated(two, alone):
    """The first step to fp32's rounding; later ones to bf16's, which norms' weights have too under fsdp."""
    _, results = two
    for layout in ("bf16 ddp", "bf16 fsdp"):
        first, *later = of(results[layout], "loss")
        assert first == pytest.approx(alone["bf16"][0]["loss"], rel=1e-6)
        assert later == pytest.approx(of(alone["bf16"], "loss")[1:], rel=4e-3)


def test_gradients_are_sent_once_for_all_micro_batches(two):
    """One reduce-scatter for each block and one for the rest; under ddp one all-reduce for each bucket."""
    _, results = two
    for layout, name, expected in (("fsdp", "reduce_scatter_tensor", 6), ("ddp", "all_reduce", 1)):
        step = results[f"step {layout}"]
        sent = [message for message in step["messages"] if message[0] == name]
        assert step["parts"] > 1 and len(sent) == expected
        assert {dtype for _, dtype, _ in sent} == {"torch.float32"}


def test_blocks_are_gathered_in_bf16_and_not_cast_again(two):
    _, results = two
    step = results["step fsdp"]
    gathered = [message for message in step["messages"] if message[0] == "all_gather_into_tensor"]
    assert {dtype for _, dtype, _ in gathered} == {"torch.bfloat16", "torch.float32"}
    in_fp32 = sum(dtype == "torch.float32" for _, dtype, _ in gathered)
    assert in_fp32 == step["parts"] == 3  # what is outside the blocks, once for each micro-batch
    blocks = [[48, 16], [64, 16], [16, 64]]  # queries, keys and values; MLP
    assert all(shape in results["step ddp"]["casts"] for shape in blocks)
    assert not any(shape in step["casts"] for shape in blocks)


def test_a_checkpoint_is_gathered_in_few_messages(two):
    _, results = two
    step = results["step fsdp"]
    assert len(step["saved"]) == 3 < step["tensors"]  # weights, averages, moments


def test_messages_of_any_size_give_the_same_checkpoint(ran):
    """On the first process alone; the others receive nothing."""
    _, results = ran
    assert all(results["in buckets"])


def test_a_sharded_muon_update_is_skipped_after_a_bad_one(ran):
    """Weights, averages and moments keep every bit."""
    _, results = ran
    assert all(results["skipped"])


def test_a_process_without_rows_of_a_matrix_takes_part(ran):
    """Four shapes, of some of which the last of three processes has no row; to the rounding of batched products.

    Replicated ones too, and shapes of one matrix alone, of which all processes but one make none.
    """
    _, results = ran
    assert max(results["differences"]) < 1e-5


def test_each_replicated_matrix_is_made_once_with_one_message(ran):
    """Six matrices of three shapes, dealt on from shape to shape."""
    _, results = ran
    updates = results["shared updates"]
    assert sum(sum(update["matrices"]) for update in updates) == 6
    assert max(sum(update["matrices"]) for update in updates) == 6 // len(updates)
    assert [len(update["messages"]) for update in updates] == [1] * len(updates)


def test_replicated_muon_trains_as_one_process(ran, alone):
    """And resumes to the bytes of a whole run."""
    folder, results = ran
    assert of(results["muon ddp"], "loss") == pytest.approx(of(alone["muon"], "loss"), rel=1e-5)
    assert results["muon ddp in parts"] == results["muon ddp"]
    mine, whole = last(folder / "muon-ddp", "model"), last(alone["folder"] / "muon", "model")
    assert all((mine[name] - weight).abs().max() < 1e-4 for name, weight in whole.items())
