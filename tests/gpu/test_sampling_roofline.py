"""The computed roofline of sampling: it counts all kernels of a call, and a graph's launch once."""

import sys
from collections import Counter

import pytest
import torch

from benchmarks import sampling
from benchmarks.fake_cuda.mode import fake_cuda
from benchmarks.fake_cuda.steps import TINY as SHALLOW
from benchmarks.fake_cuda.watch import Kernel
from benchmarks.roofline import Ceilings
from benchmarks.sampling_roofline import CallCounter, Work, settings
from lightgen_core.config import FewStepConfig, HeadConfig, SamplerConfig
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.flops import sampling_flops
from lightgen_core.model.mar import Student

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")

CEILINGS = Ceilings(bf16=1000.0, fp32=100.0, bandwidth=10.0, launch=2.0)
SMALL = Kernel("add", 1, 0, torch.bfloat16)
LARGE = Kernel("mm", 10, 5000, torch.bfloat16)
TINY = SHALLOW.model_copy(update={"encoder_depth": 2, "decoder_depth": 2, "text_depth": 2})
TINY_HEADS = {name: HeadConfig(width=48, depth=2, objective=name) for name in ("ddpm", "v", "flow")}


def count(objective, graphs=False, shorten=True, images=2, **sampler):
    with fake_cuda() as cuda:
        counter = CallCounter(cuda, images, (4, 4), text_tokens=5, shorten=shorten)
        if sampler.get("head_sampler") == "few_step":
            student = cuda.build(lambda: FewStepStudent(TINY, FewStepConfig(width=48, depth=2, steps=2)))
        else:
            student = cuda.build(lambda: Student(TINY, TINY_HEADS[objective]))
        return counter.count(student, SamplerConfig(iterations=3, precision="bf16", **sampler), graphs)


SAMPLERS = {
    "ddpm": ("ddpm", {"head_steps": 9}),
    "falling": ("ddpm", {"head_sampler": "ddim", "head_steps": 8, "head_steps_last": 3}),
    "guidance at first": (
        "flow",
        {
            "head_sampler": "euler",
            "head_steps": 5,
            "guidance_schedule": "interval",
            "guidance_interval": (0.0, 0.5),
        },
    ),
    "few-step": ("v", {"head_sampler": "few_step", "head_steps": 2, "head_steps_last": 1}),
}


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize(("objective", "sampler"), SAMPLERS.values(), ids=SAMPLERS)
def test_steps_that_are_not_run_are_counted_as_if_they_were(objective, sampler, graphs):
    assert count(objective, graphs, **sampler) == count(objective, graphs, shorten=False, **sampler)


def test_kernels_of_a_call_have_the_flops_of_the_student():
    config = SamplerConfig(iterations=3, head_steps=9)
    work = count("ddpm", images=1, head_steps=9)
    flops = sum(number * kernel.flops for kernel, number in work.kernels.items())
    expected = sampling_flops(TINY, TINY_HEADS["ddpm"], config, tokens=16, text_tokens=5)
    assert flops == pytest.approx(expected, rel=0.05)


def test_a_graph_costs_one_launch_and_its_kernels_none():
    eager, graphs = Work(Counter({SMALL: 3, LARGE: 2})), Work(Counter({SMALL: 1}), Counter({SMALL: 2, LARGE: 2}), 4)
    assert eager.seconds(CEILINGS) == 3 * 2 + 2 * 5
    assert graphs.seconds(CEILINGS) == pytest.approx(2 + 2 * 0.1 + 2 * 5 + 4 * 2)


def test_every_iteration_is_a_graph_that_casts_no_weight():
    eager, graphs = (count("ddpm", graphs, head_steps=4) for graphs in (False, True))
    assert (eager.graphs, graphs.graphs) == (0, 3) and not eager.recorded
    casts = [sum(n for kernel, n in w.kernels.items() if kernel.name == "_to_copy") for w in (eager, graphs)]
    assert casts[0] - casts[1] > 50
    products = [sum(n for kernel, n in w.kernels.items() if kernel.name == "addmm") for w in (eager, graphs)]
    assert products[0] == products[1] + 2  # which embed the times, once for the graphs


def test_the_benchmark_of_sampling_computes_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(sampling, "SIZES", {"mid": (TINY, TINY_HEADS["ddpm"])})
    arguments = ["--size", "mid", "--grid", "4", "--pictures", "2", "--roofline", "H200"]
    changes = ["--change", "head_sampler=few_step,head_steps=2"]
    monkeypatch.setattr(sys, "argv", ["sampling", *arguments, "--sampler", "iterations=3", "head_steps=6", *changes])
    sampling.main()
    printed = capsys.readouterr().out
    assert "mid, 2 images of 4x4 tokens, bf16, not compiled; computed for H200\nat 790 TFLOP/s in bf16" in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line][2:]
    assert [row[:2] for row in rows] == [["plain", "12.0"], [changes[1], "2.0"]]
    assert all(float(row[5]) > float(row[6]) > 0 for row in rows)


def test_the_settings_end_with_fewer_evaluations_than_the_papers():
    """Of a token at 512 px: 200 in the paper's setting, and 1 to 2 of the few-step student."""
    rows = {name: sampling._evaluations((32, 32), config) for name, config in settings(SamplerConfig()).items()}
    assert rows["plain"] == 200 and rows["few-step student, 8 iterations"] == 2
    assert 1 < rows["+ one evaluation after the first tokens, 24 iterations"] < 1.2
    assert len(rows) == 12
