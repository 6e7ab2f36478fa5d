"""Processes that train together: rank, rows, and how a model is distributed over them.

Only torch.distributed knows whether there are others: torchrun, Ray or a test set it up, and nothing here starts it.
DTensor and FSDP are imported late: together they take 0.7 s, and one process needs neither.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightgen_core.config import FitConfig


@dataclass(frozen=True)
class DistributedState:
    """This process, `rank`, of `world_size` that train together."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "DistributedState":
        """Return rank and world size; (0, 1) if torch.distributed is not initialised."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def rows(self, batch_size: int) -> range:
        """Return the rows of the global batch that this process trains on."""
        share = batch_size // self.world_size
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes, the same in each."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def gather(self, value: Any) -> list[Any]:
        """Gather every process's value, a small plain object, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def check_parallel(config: FitConfig, processes: int) -> None:
    """Raise ValueError if so many processes cannot train a configuration."""
    if config.batch_size % processes:
        raise ValueError(
            f"a batch of {config.batch_size} rows does not divide among {processes} processes; "
            "start a number of processes that divides batch_size"
        )


def parallelize(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    parallel: Literal["ddp", "fsdp"],
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> nn.Module:
    """Return the module to call: ddp wraps the model, fsdp shards it in place, block by block.

    Under fsdp in bf16 the blocks' weights are gathered as bf16, which is what autocast would make of them, and their
    gradients are summed in fp32. Inputs are left as they are: autocast chooses an operator's precision, as under ddp.
    What is outside the blocks, a few percent with the positions and the learned vectors, is gathered as fp32.
    """
    if not dist.is_initialized():
        return model
    if parallel == "ddp":
        # Looking for unused parameters keeps the gradients' buckets in one order for good. Otherwise they are put into
        # another one after the first step, sums of three or more processes round differently, and a resumed run,
        # whose first step comes later, is no longer equal to the bit.
        return DistributedDataParallel(
            model, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    gathered = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    return model


@contextlib.contextmanager
def gradient_sync(module: nn.Module, enabled: bool) -> Iterator[None]:
    """Sum gradients over the processes in the backward pass inside, or keep this process's sum for a later one.

    Under fsdp what is kept is the gradient of the whole model, not a share of it.
    """
    if isinstance(module, DistributedDataParallel):
        with contextlib.nullcontext() if enabled else module.no_sync():
            yield
        return
    if dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(enabled)
    yield


def forget_gathered(module: nn.Module) -> None:
    """Free what fsdp has gathered: after a forward pass without a backward one it would be used again as it is."""
    if not dist.is_initialized():
        return
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is sharded."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local_tensor(tensor: Any) -> Tensor:
    """Return this process's part of a tensor: all of it, or under fsdp a view of its shard."""
    return tensor.to_local().detach() if is_sharded(tensor) else tensor


def distribute_like(tensor: Tensor, like: Any) -> Tensor:
    """Move a full tensor to the device of `like` and shard it as that is, without communication."""
    tensor = tensor.to(like.device)
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Compute the norm of all tensors together, sharded or not, equal in every process."""
    norm: Any = nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if is_sharded(norm) else norm


def local_parameters(module: nn.Module) -> Mapping[str, Tensor]:
    """Return this process's part of each trained weight; under fsdp every call makes new views."""
    return {name: local_tensor(weight) for name, weight in module.named_parameters() if weight.requires_grad}
