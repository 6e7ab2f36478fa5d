"""CUDA tensors without a GPU: they have device, shape, dtype and size, and no values.

`FakeTensorMode` runs every operator on shapes alone, and fails where devices differ or where the host would have to
read a value. What else asks for a driver is patched while the mode is entered: autocast, the backward pass, moving a
module, page-locked memory, seeds, and attention, which takes the kernel that a GPU would take. Not reachable: streams,
events, graphs, NCCL, kernels themselves; for these there are the tests marked `cuda`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from benchmarks.fake_cuda.backward import SavedTensors, backward
from benchmarks.fake_cuda.watch import Watch
from lightgen_core.diffusion.schedule import schedule_on
from lightgen_core.model.positions import interpolation_matrix
from lightgen_core.sampling import head_samplers, noise, token_sampler, unmask
from lightgen_core.train import distil_head
from lightgen_core.train.step_noise import StepNoise

CUDA = torch.device("cuda")


class FakeCuda:
    """The entered mode: tensors and modules on the device, and what autograd saved."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode, self.saved, self.pinned = mode, SavedTensors(), set[int]()

    def build(self, make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> Any:
        """Build a module on the device."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(CUDA):
                return make()
        finally:
            torch.set_default_dtype(before)

    def fake(self, value: Any) -> Any:
        """Return a fake of a tensor, or of the tensors in a dataclass, tuple or list, on their device."""
        if isinstance(value, FakeTensor):
            return value
        if isinstance(value, Tensor):
            return self._mode.from_tensor(value)
        if isinstance(value, list):
            return [self.fake(part) for part in value]
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(self.fake(part) for part in value)
        if is_dataclass(value) and not isinstance(value, type):
            parts = {field.name: getattr(value, field.name) for field in fields(value)}
            return replace(value, **{name: self.fake(part) for name, part in parts.items() if isinstance(part, Tensor)})
        return value

    def watch(self, *resident: Any) -> Watch:
        """Return a watcher; `resident`: tensors and modules on the device already."""
        return Watch(*resident, pinned=self.pinned)

    def on_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that draws numbers on the host for real, and gives fakes of them.

        A fake mask that it is given counts as true at every other place.
        """

        def run(*args: Any, **kwargs: Any) -> Any:
            with unset_fake_temporarily():
                real = [torch.arange(len(arg)) % 2 == 0 if isinstance(arg, FakeTensor) else arg for arg in args]
                result = function(*real, **kwargs)
            return self.fake(result)

        return run


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Enter the mode: tensors made in here are fakes, on "cuda" or on "cpu"."""
    _forget_constants()
    mode = FakeTensorMode()
    cuda = FakeCuda(mode)

    def pin_memory(tensor: Tensor, *_: Any) -> Tensor:
        cuda.pinned.add(tensor.untyped_storage()._cdata)
        return tensor

    def module_to(module: nn.Module, *_: Any, **__: Any) -> nn.Module:
        """Modules are built where they belong: swapping fake parameters is not possible."""
        return module

    numpy = Tensor.numpy

    def zeros_of_fakes(tensor: Tensor) -> Any:
        if not isinstance(tensor, FakeTensor):
            return numpy(tensor)
        return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    head_steps = cuda.on_host(head_samplers.head_steps)
    with ExitStack() as stack:
        for target, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.is_bf16_supported", lambda *_, **__: True),
            ("torch.manual_seed", lambda seed: None),
            ("torch._C._current_graph_task_id", lambda: 0),
            ("torch.nn.functional.scaled_dot_product_attention", attention_of_a_gpu),
        ):
            stack.enter_context(mock.patch(target, value))
        for owner, name, replacement in (
            (Tensor, "backward", lambda loss: backward(loss, cuda.saved)),
            (Tensor, "pin_memory", pin_memory),
            (Tensor, "numpy", zeros_of_fakes),
            (nn.Module, "to", module_to),
            (StepNoise, "sample", cuda.on_host(StepNoise.sample)),
            (head_samplers, "head_steps", head_steps),
            (token_sampler, "head_steps", head_steps),
            (distil_head, "head_steps", head_steps),
            (unmask, "sample_orders", cuda.on_host(noise.sample_orders)),
            (noise, "sample_noises", _noises),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.enter_context(mode)
        stack.enter_context(cuda.saved.kept())
        try:
            yield cuda
        finally:
            _forget_constants()


def _noises(generators: Sequence[Any], shapes: Sequence[tuple[int, int]], width: int) -> Tensor:
    """Return what `sample_noises` returns, without values: they can be gigabytes."""
    return torch.empty(sum(noises * len(generators) * count * width for noises, count in shapes))


def _forget_constants() -> None:
    """Forget constants that are copied to a device once: in the mode they are fakes."""
    schedule_on.cache_clear()
    interpolation_matrix.cache_clear()


def attention_of_a_gpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend with the kernel that a GPU takes: flash, or memory-efficient for fp32 and for masks."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    if not query.shape[-2] or not key.shape[-2]:
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value
    if query.dtype == torch.float32 or attn_mask is not None:
        bias = None
        if attn_mask is not None:
            shape = (*query.shape[:-1], key.shape[-2])
            if attn_mask.dtype == torch.bool:
                empty = torch.zeros(attn_mask.shape, device=query.device, dtype=query.dtype)
                attn_mask = empty.masked_fill(~attn_mask, -math.inf)
            bias = attn_mask.expand(shape)
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        training = torch.is_grad_enabled()
        return efficient(query, key, value, bias, training, dropout_p, is_causal, scale=scale)[0]
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
