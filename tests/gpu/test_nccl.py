"""Processes over NCCL train what one process on a GPU trains, in DDP and in FSDP2; over gloo on a CPU the same test."""

import json
import os
import subprocess
import sys

import pytest
import torch

from lightgen_core.config import ParallelConfig
from tests.factories.tiny_student import write_rows
from tests.programs.train_as_rank import fitted
from tests.programs.train_on_gpus import KINDS, LAYOUTS
from tests.support.gpus import needs_gpus
from tests.support.paths import PROGRAMS, ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def check_processes(folder, count, device):
    """Compare so many processes with one on the same kind of device; and of them a run in parts with an unbroken one.

    Losses to 1e-4: sums of gradients are of another order, and Muon rounds their directions to bf16.
    """
    write_rows(folder / "tokens.parquet", rows=10)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAMS / "train_on_gpus.py"), str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank), str(count), device], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)
    rows = json.loads((folder / "rows.json").read_text())
    for kind in KINDS:
        where = {"folder": folder / f"alone {kind}", "device": torch.device(device)}
        alone = fitted(folder, kind=kind, layout=ParallelConfig(), dropout=0.0, **where).rows
        for layout in LAYOUTS:
            found = rows[f"{layout} {kind}"]
            assert len(found) == 6 and of(found, "loss") == pytest.approx(of(alone, "loss"), rel=1e-4)
            assert of(found, "gradient_norm") == pytest.approx(of(alone, "gradient_norm"), rel=1e-3)
    for layout in LAYOUTS:
        assert rows[f"{layout} parts"] == rows[f"{layout} whole"]


def of(rows, name):
    return [row[name] for row in rows]


def test_two_processes_over_gloo_train_what_one_does(tmp_path):
    check_processes(tmp_path, 2, "cpu")


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1, marks=needs_gpus(1, "training over NCCL is")),
        pytest.param(2, marks=needs_gpus(2, "what processes send each other over NCCL is")),
    ],
)
def test_processes_over_nccl_train_what_one_does(tmp_path, count):
    check_processes(tmp_path, count, "cuda")
