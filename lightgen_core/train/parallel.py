"""Processes that train together: which one this is, its rows, and how a model is spread over them.

Only torch.distributed knows whether there are others: torchrun, Ray or a test set it up, and nothing here starts it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightgen_core.config import LoopConfig, ParallelConfig


@dataclass(frozen=True)
class DistributedState:
    """This process, `rank`, of `world_size` that train together."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "DistributedState":
        """Current rank and world size; (0, 1) if torch.distributed is not initialised."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def rows(self, batch_size: int) -> range:
        """Rows of the global batch that this process trains on."""
        share = batch_size // self.world_size
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, the same in each."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank: small plain objects, for what happens rarely."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def check_parallel(config: LoopConfig, parallel: ParallelConfig, processes: int) -> None:
    """Raise ValueError where a configuration cannot be trained by so many processes, or not in this way."""
    if config.batch_size % processes:
        raise ValueError(
            f"a batch of {config.batch_size} rows does not divide among {processes} processes; "
            "start a number of processes that divides batch_size"
        )
    if processes > 1 and parallel.parallel == "fsdp" and config.optimizer.name == "muon":
        raise ValueError(
            "fsdp cuts matrices into shards, and Muon updates whole ones; set LIGHTGEN_TRAIN__PARALLEL=ddp, or "
            "optimizer.name=adamw in the recipe"
        )


def parallelize(
    model: nn.Module, blocks: Iterable[nn.Module], parallel: Literal["ddp", "fsdp"], device: torch.device
) -> nn.Module:
    """The module to call in training. ddp wraps the model; fsdp shards it in place, block by block; alone it stays."""
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
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is sharded; imports DTensor, a second, only where processes are connected."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local_tensor(tensor: Any) -> Tensor:
    """The part of a tensor that this process holds: all of it, or under fsdp a view of its shard."""
    return tensor.to_local().detach() if is_sharded(tensor) else tensor


def full_tensor(part: Tensor, like: Any) -> Tensor | None:
    """The tensor of which every process holds a part, cut as `like` is: on the first process's host, else None.

    All processes must call it. A tensor that is not sharded is given back as it is, to every process.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    joined = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()
    return joined.cpu() if dist.get_rank() == 0 else None


def distribute_like(tensor: Tensor, like: Any) -> Tensor:
    """A whole tensor on the device of `like`, and sharded as that is. Every process cuts its own, none is asked."""
    tensor = tensor.to(like.device)
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all tensors together, sharded or not, the same in every process."""
    norm: Any = nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if is_sharded(norm) else norm


def local_parameters(module: nn.Module) -> Mapping[str, Tensor]:
    """By name, what this process holds of each trained weight. Call it once: under fsdp every call makes new views."""
    return {name: local_tensor(weight) for name, weight in module.named_parameters() if weight.requires_grad}
