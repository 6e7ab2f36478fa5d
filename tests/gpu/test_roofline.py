"""The computed roofline of a training step: what binds a kernel, and that it needs no GPU."""

import sys

import pytest
import torch

from benchmarks import roofline, training
from benchmarks.fake_cuda.steps import TINY, TINY_HEAD
from benchmarks.fake_cuda.watch import Kernel

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")

CEILINGS = roofline.Ceilings(bf16=1000.0, fp32=100.0, bandwidth=10.0, launch=2.0)


@pytest.mark.parametrize(
    ("kernel", "seconds"),
    [
        (Kernel("mm", 10, 5000, torch.bfloat16), 5.0),
        (Kernel("mm", 10, 5000, torch.float32), 50.0),
        (Kernel("add", 30, 0, torch.bfloat16), 3.0),
        (Kernel("add", 1, 0, torch.bfloat16), 2.0),
    ],
    ids=["arithmetic", "arithmetic in fp32", "memory", "launch"],
)
def test_a_kernel_takes_what_binds_it(kernel, seconds):
    assert CEILINGS.seconds(kernel) == seconds


def test_every_kernel_of_a_step_is_in_one_row_of_the_table():
    kernels = roofline.training_kernels(TINY, TINY_HEAD, images=2, grid=(4, 4), masked=13, text_tokens=5)
    lines = roofline.by_kind(kernels, CEILINGS).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert sum(int(row[1]) for row in cells) == len(kernels)
    assert sum(float(row[4]) for row in cells) == pytest.approx(1e3 * roofline.seconds(kernels, CEILINGS), abs=1)


def test_an_optimizer_counts_what_it_reads_and_writes():
    """Weights, gradients, two moments, each once in and once out; and two scalars and the steps."""
    kernels = roofline.training_kernels(TINY, TINY_HEAD, images=2, grid=(4, 4), masked=13, text_tokens=5)
    (average,) = (kernel for kernel in kernels if kernel.name.startswith("_foreach_lerp_"))
    updates = [kernel for kernel in kernels if kernel.name.startswith("_fused_adamw_")]
    parameters = average.bytes / 12
    assert sum(kernel.bytes for kernel in updates) == pytest.approx(32 * parameters, rel=0.05)


def test_the_benchmark_computes_a_roofline_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(training, "SIZES", {"mid": (TINY, TINY_HEAD)})
    monkeypatch.setattr(sys, "argv", ["training", "--size", "mid", "--batch", "2", "--roofline", "H200"])
    training.main()
    printed = capsys.readouterr().out
    assert "computed for H200\nat 790 TFLOP/s in bf16, 67 in fp32, 4.3 TB/s, 2 us a kernel" in printed
    assert "| matrix products " in printed and " kernels, " in printed
