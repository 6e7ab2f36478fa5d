"""The least time that a device could take for counted kernels: each is bound by arithmetic, by memory or by its launch.

Kernels come from a step on fake CUDA tensors (`benchmarks.fake_cuda`), so no GPU is needed. It is a bound for these
kernels one after another, not for the work: fused ones move fewer bytes. Operators of several launches count as one.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch

from benchmarks.fake_cuda.mode import fake_cuda
from benchmarks.fake_cuda.steps import FakeTraining
from benchmarks.fake_cuda.watch import Kernel
from benchmarks.interleaved import table
from lightgen_core.config import HeadConfig, MarConfig, TrainConfig


class Ceilings(NamedTuple):
    """Rates that a device reaches, FLOP/s and bytes/s, and the seconds of the shortest kernel."""

    bf16: float
    fp32: float
    bandwidth: float
    launch: float = 2e-6

    def seconds(self, kernel: Kernel) -> float:
        """Return the time below which a kernel cannot be."""
        rate = self.fp32 if kernel.dtype == torch.float32 else self.bf16
        return max(kernel.flops / rate, kernel.bytes / self.bandwidth, self.launch)

    def __str__(self) -> str:
        rates = f"{self.bf16 / 1e12:.0f} TFLOP/s in bf16, {self.fp32 / 1e12:.0f} in fp32"
        return f"{rates}, {self.bandwidth / 1e12:.1f} TB/s, {1e6 * self.launch:.0f} us a kernel"


CEILINGS = {"H100": Ceilings(798e12, 67e12, 3.0e12), "H200": Ceilings(790e12, 67e12, 4.3e12)}
"""bf16 and bandwidth: large products and copies as measured on such cards; fp32: the data sheet's, without TF32."""

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "attention": ("_scaled_dot_product",),
    "casts and copies": ("_to_copy", "copy_", "clone"),
    "layer norm": ("native_layer_norm",),
    "dropout": ("native_dropout",),
    "gelu, silu": ("gelu", "silu"),
    "sums": ("sum", "mean"),
    "optimizer and average": ("_fused_adamw_", "_foreach_lerp_"),
    "add, multiply": ("add", "mul", "div", "sub"),
    "concatenate, gather": ("cat", "stack", "gather", "scatter", "index"),
}
"""Kinds of kernels by the beginning of their names."""


def training_kernels(
    mar: MarConfig, head: HeadConfig, *, images: int, grid: tuple[int, int], masked: int, text_tokens: int
) -> list[Kernel]:
    """Return the kernels of an update in bf16, as they run without compilation."""
    with fake_cuda() as cuda:
        training = FakeTraining.start(
            cuda, mar, head, config=TrainConfig(batch_size=images), grid=grid, text_tokens=text_tokens
        )
        training.run(0, masked)  # moments and constants are made in the first one
        return training.run(1, masked).kernels


def kind_of(kernel: Kernel) -> str:
    """Return the kind of a kernel, "other" if it is of none."""
    for kind, names in KINDS.items():
        if kernel.name in names or any(kernel.name.startswith(name) for name in names if len(name) > 2):
            return kind
    return "other"


def seconds(kernels: Iterable[Kernel], ceilings: Ceilings) -> float:
    """Return the least time of kernels, one after another."""
    return sum(map(ceilings.seconds, kernels))


def by_kind(kernels: Iterable[Kernel], ceilings: Ceilings) -> str:
    """Return a table of the least time by kind of kernel, the longest first."""
    kinds = defaultdict[str, list[Kernel]](list)
    for kernel in kernels:
        kinds[kind_of(kernel)].append(kernel)
    total = sum(seconds(group, ceilings) for group in kinds.values())
    rows = list[tuple[str, ...]]()
    for kind, group in sorted(kinds.items(), key=lambda item: -seconds(item[1], ceilings)):
        taken = seconds(group, ceilings)
        flops, moved = sum(kernel.flops for kernel in group), sum(kernel.bytes for kernel in group)
        rows.append(
            (
                kind,
                f"{len(group)}",
                f"{flops / 1e12:.2f}",
                f"{moved / 1e9:.1f}",
                f"{1e3 * taken:.1f}",
                f"{100 * taken / total:.0f} %",
            )
        )
    return table(("kernels", "number", "TFLOP", "GB", "ms", "share"), rows)
