"""A CUDA graph without a GPU: the operators of a recorded run, repeated on the memory that they read and wrote.

As of a real one, recording changes no memory, Python's numbers are those of the recording, and memory from outside is
known by its place alone: a replay fails if it was freed meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass(frozen=True)
class Made:
    """A tensor that the graph makes, by the number of its operator and of the output."""

    operator: int
    output: int


@dataclass(frozen=True)
class Outside:
    """Memory that was there before."""

    storage: StorageWeakRef
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        """Return it as a tensor."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError(f"the graph reads memory that was freed: {self.dtype} {tuple(self.size)}")
        return torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.size, self.stride)


class Recording(TorchDispatchMode):
    """Keeps the operators that run while it is entered, and afterwards undoes what they changed outside."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any]] = []
        self._made: dict[int, Made] = {}
        self._alive: list[Tensor] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for argument, given in zip(func._schema.arguments, args, strict=False):
            changed = argument.alias_info is not None and argument.alias_info.is_write
            if changed and id(given) not in self._made:
                self._before.append((given, given.clone()))
        given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        self.operators.append((func, *tree_map_only(Tensor, self._reference, (args, kwargs))))
        result = func(*args, **kwargs)
        for number, made in enumerate(tree_leaves(result)):
            if isinstance(made, Tensor) and id(made) not in given:
                self._made[id(made)] = Made(len(self.operators) - 1, number)
                self._alive.append(made)
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for tensor, before in reversed(self._before):
            tensor.copy_(before)
        self._alive.clear()
        self._before.clear()

    def _reference(self, tensor: Tensor) -> Made | Outside:
        if made := self._made.get(id(tensor)):
            return made
        storage = StorageWeakRef(tensor.untyped_storage())
        return Outside(storage, tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))


class FakeGraph:
    """Stands for `lightgen_core.sampling.graphs.CudaGraph`."""

    def __init__(self, function: Callable[[], None], pool: Any) -> None:
        function()
        recording = Recording()
        with recording:
            function()
        self._operators = recording.operators

    @staticmethod
    def new_pool(device: torch.device) -> Any:
        return object()

    @torch.no_grad()
    def replay(self) -> None:
        results: list[list[Any]] = []
        for func, args, kwargs in self._operators:
            args, kwargs = tree_map_only(Made, lambda made: results[made.operator][made.output], (args, kwargs))
            args, kwargs = tree_map_only(Outside, Outside.tensor, (args, kwargs))
            results.append(tree_leaves(func(*args, **kwargs)))
