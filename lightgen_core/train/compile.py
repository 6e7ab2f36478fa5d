"""Compilation and activation checkpointing of a model's blocks in training."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightgen_core.config import ParallelConfig
from lightgen_core.model.blocks import Block, CrossAttentionBlock
from lightgen_core.model.head import AdaLNBlock

SHAPES = 16
"""Maximal shapes for which one kind of block is compiled; some five are normal."""


class RecompileLimitError(RuntimeError):
    """Blocks are compiled for too many shapes."""


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """Return the repeated parts of a model: transformer blocks, and the head's."""
    return [module for module in model.modules() if isinstance(module, Block | CrossAttentionBlock | AdaLNBlock)]


@contextlib.contextmanager
def apply_compile_and_ac(model: nn.Module, parallel: ParallelConfig) -> Iterator[None]:
    """Apply compile and activation checkpointing to the blocks; undo both on exit.

    A kind of block is one compiled function for each shape: the 0.7B student compiles three and not 54. Lengths, of
    tokens and of text, are dynamic: how many tokens are masked differs at every step, and neither 0 nor 1 of them left
    visible has another kernel than n but for a graph of its own.
    """
    blocks = blocks_of(model) if parallel.compile or parallel.activation_checkpointing else []
    for block in blocks:
        forward = block.forward
        if parallel.compile:
            forward = partial(_with_dynamic_lengths, torch.compile(forward, dynamic=False))
        if parallel.activation_checkpointing:
            forward = partial(checkpoint, forward, use_reentrant=False)
        vars(block)["forward"] = forward
    try:
        with _shapes_counted() if parallel.compile else contextlib.nullcontext():
            yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Undo both meanwhile: for a pass of other shapes and modes, which needs no graphs of its own."""
    applied = [(block, vars(block).pop("forward")) for block in blocks_of(model) if "forward" in vars(block)]
    try:
        yield
    finally:
        for block, forward in applied:
            vars(block)["forward"] = forward


def _with_dynamic_lengths(compiled: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a compiled block on inputs whose second dimension, a length, is not part of the compiled shape."""
    for tensor in inputs:
        if isinstance(tensor, Tensor):
            torch._dynamo.maybe_mark_dynamic(tensor, 1)
    return compiled(*inputs)


@contextlib.contextmanager
def _shapes_counted() -> Iterator[None]:
    """Raise RecompileLimitError after `SHAPES` shapes; torch quietly stops after eight."""
    from torch._dynamo.exc import FailOnRecompileLimitHit  # two seconds that only compiling costs

    limits = {"recompile_limit": SHAPES, "accumulated_recompile_limit": 8 * SHAPES, "fail_on_recompile_limit_hit": True}
    try:
        with torch._dynamo.config.patch(limits):
            yield
    except FailOnRecompileLimitHit as error:
        raise RecompileLimitError(
            f"a block was compiled for {SHAPES} shapes and meets another one; set LIGHTGEN_TRAIN__MICRO_BATCH to a "
            "number that divides the rows of a process, or train without compile"
        ) from error
