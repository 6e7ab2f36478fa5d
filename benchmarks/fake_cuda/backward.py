"""A backward pass in Python: the autograd engine asks for a CUDA driver as soon as a gradient says it is on a GPU.

It calls the engine's own nodes, checks each gradient's device, and frees what a node saved once it has run, so that
the peak of memory is that of the engine.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class SavedTensors:
    """Tensors that autograd keeps between the forward and the backward pass."""

    def __init__(self) -> None:
        self._alive: dict[int, Tensor] = {}
        self._used: list[int] = []
        self._number = 0

    def bytes(self, besides: set[int] = frozenset()) -> int:  # type: ignore[assignment]
        """Return the bytes kept, each storage once; `besides`: storages (their `_cdata`) that do not count."""
        storages = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in self._alive.values()
        }
        return sum(count for key, count in storages.items() if key not in besides)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is saved in here."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield

    def free_used(self) -> None:
        """Free what the node that just ran has read."""
        for number in self._used:
            self._alive.pop(number, None)
        self._used.clear()

    def _pack(self, tensor: Tensor) -> int:
        self._number += 1
        self._alive[self._number] = tensor
        return self._number

    def _unpack(self, number: int) -> Tensor:
        self._used.append(number)
        return self._alive[number]


def backward(loss: Tensor, saved: SavedTensors) -> None:
    """Add the gradient of a loss to its leaves, as `Tensor.backward`.

    Raises RuntimeError for a gradient on another device than what it belongs to.
    """
    root: Any = loss.grad_fn
    waiting, seen, stack = defaultdict[Any, int](int), {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    gradients: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    ready = [root]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            for (following, index), gradient in zip(
                node.next_functions, _run(node, gradients.pop(node, {})), strict=False
            ):
                if following is None:
                    continue
                if gradient is not None:
                    _add(gradients.setdefault(following, {}), following, index, gradient)
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)
            saved.free_used()


def _run(node: Any, given: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """Run a node on the gradients of its outputs; a leaf keeps its gradient."""
    if type(node).__name__ == "AccumulateGrad":
        if (gradient := given.get(0)) is not None:
            leaf = node.variable
            leaf.grad = gradient.detach() if leaf.grad is None else leaf.grad + gradient
        return ()
    outputs = node(*(given.get(index) for index in range(max(1, len(node._input_metadata)))))
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _add(slots: dict[int, Tensor], node: Any, index: int, gradient: Tensor) -> None:
    """Add a gradient to those that a node waits for, in the shape and dtype of its output, as the engine does."""
    expected = node._input_metadata[index]
    if gradient.device != expected.device:
        raise RuntimeError(f"gradient of {type(node).__name__} on {gradient.device}, expected {expected.device}")
    if tuple(gradient.shape) != tuple(expected.shape):
        gradient = gradient.sum_to_size(expected.shape)
    gradient = gradient.to(expected.dtype)
    slots[index] = slots[index] + gradient if index in slots else gradient
