"""A watcher of operators: copies that block the host, by file and line; kernels, bytes, FLOPs; memory and its peak."""

import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).parents[2]

MOVES = Path("lightgen_core/device.py")
"""The module that moves tensors for others: a copy in there is its caller's."""

LIBRARIES = {"diffusers", "open_clip", "transformers"}
"""Packages whose own lines are named."""

READS_DATA = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal"}
"""Operators whose result, or its shape, the host waits for."""

NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}
"""Operators that start no kernel, beside views."""

BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Kernel(NamedTuple):
    """An operator on a GPU: bytes read and written, an expanded dimension counted once; FLOPs, in a dtype."""

    name: str
    bytes: int
    flops: int
    dtype: torch.dtype


class Transfer(NamedTuple):
    """A copy to a device of another type, of which the host does not wait for the end if it is asynchronous."""

    source: Tensor
    target: str
    asynchronous: bool

    def __str__(self) -> str:
        return f"copy from {self.source.device.type} to {self.target} of {tuple(self.source.shape)}"


class Watch(TorchDispatchMode):
    """Records operators on fake CUDA tensors while it is entered.

    waits: places where the host waits for the device, "file:line what", with their number; uploads: places where the
    device reads the host's memory, whether the host waits for it or not; kernels; converted: storages (their `_cdata`)
    that were copied to another dtype or device; peak: bytes alive on the device at most, those of `resident` tensors
    included.
    """

    def __init__(self, *resident: Any, pinned: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        """resident: tensors, or modules, on the device from the start; pinned: storages of page-locked memory."""
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.kernels: list[Kernel] = []
        self.converted: set[int] = set()
        self._pinned = pinned
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._alive = self.peak = 0
        for owner in resident:
            tensors = [*owner.parameters(), *owner.buffers()] if isinstance(owner, torch.nn.Module) else [owner]
            self._count(tensors)
        self._see_peak()

    @property
    def alive(self) -> int:
        """Bytes alive on the device."""
        self._forget_freed()
        return self._alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():  # there autograd does not split an operator into those it is made of
            with self:
                if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return result
        name = func._schema.name.removeprefix("aten::")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "_to_copy":
            self.converted.add(given[0].untyped_storage()._cdata)
        transfer = _transfer(name, given, args, kwargs)
        if wait := self._wait(name, given, args, transfer):
            self.waits[f"{_place()} {wait}"] += 1
        if transfer is not None and transfer.source.device.type == "cpu":
            self.uploads[f"{_place()} {transfer}"] += 1
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._count(made)
        self._see_peak()
        if name not in NO_KERNEL and not func.is_view and any(map(_on_gpu, [*given, *made])):
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=result) if count else 0
            touched = [*given, *(made or _written(func, args))]
            self.kernels.append(Kernel(name, sum(map(_touched, touched)), int(flops), touched[0].dtype))
        return result

    def _wait(self, name: str, given: list[Tensor], args: Any, transfer: "Transfer | None") -> str | None:
        """Return why the host waits for the device at an operator, or None."""
        on_gpu = any(map(_on_gpu, given))
        if name in READS_DATA and on_gpu:
            return name
        if name in BY_INDEX and on_gpu:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                return f"{name} by booleans"
            if not all(map(_on_gpu, indices)):
                return f"{name} by indices on the host"
        if transfer is None:
            return None
        if not transfer.asynchronous:
            return str(transfer)
        source = transfer.source
        pageable = source.device.type == "cpu" and source.untyped_storage()._cdata not in self._pinned
        return f"{transfer}, memory not page-locked" if pageable else None

    def _count(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if _on_gpu(tensor):
                storage = tensor.untyped_storage()
                known = self._storages.get(storage._cdata)
                if known is None or known[0].expired():
                    self._alive += storage.nbytes() - (known[1] if known else 0)
                    self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def _see_peak(self) -> None:
        if self._alive > self.peak * 1.002:
            self._forget_freed()
            self.peak = max(self.peak, self._alive)

    def _forget_freed(self) -> None:
        for key in [key for key, (storage, _) in self._storages.items() if storage.expired()]:
            self._alive -= self._storages.pop(key)[1]


def _on_gpu(tensor: Tensor) -> bool:
    """Return whether a tensor is on a GPU; a fake's own `is_cuda` is an operator too, and slow."""
    return getattr(tensor, "fake_device", None) is not None and tensor.fake_device.type == "cuda"  # type: ignore


def _written(func: Any, args: Any) -> list[Tensor]:
    """Return the tensors that an operator without a result changes: the optimizer's, in lists."""
    pairs = zip(func._schema.arguments, args, strict=False)
    changed = [value for argument, value in pairs if argument.alias_info is not None and argument.alias_info.is_write]
    return [leaf for leaf in tree_leaves(changed) if isinstance(leaf, Tensor)]


def _touched(tensor: Tensor) -> int:
    """Return the bytes of a tensor's elements, those of an expanded dimension once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count


def _transfer(name: str, given: list[Tensor], args: Any, kwargs: dict[str, Any]) -> Transfer | None:
    """Return the copy between devices that an operator is, or None."""
    if name not in ("_to_copy", "copy_") or (name == "_to_copy" and kwargs.get("device") is None):
        return None
    source = given[-1] if name == "copy_" else given[0]
    target = given[0].device if name == "copy_" else torch.device(kwargs["device"])
    if source.device.type == target.type:
        return None
    given_third = name == "copy_" and len(args) > 2
    return Transfer(source, target.type, bool(kwargs.get("non_blocking", args[2] if given_third else False)))


def _place() -> str:
    """Return file and line, of the project or of a library, that the running operator comes from."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "site-packages" in path.parts:
            path = Path(*path.parts[path.parts.index("site-packages") + 1 :])
            named = path.parts[0] in LIBRARIES
        elif path.is_relative_to(ROOT) and "fake_cuda" not in path.parts:
            path = path.relative_to(ROOT)
            named = path != MOVES
        else:
            named = False
        if named:
            return f"{path}:{frame.lineno}"
    return "autograd"
