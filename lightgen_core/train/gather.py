"""Full tensors of sharded ones, for checkpoints: many in one message, to the first process alone, then to its host."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lightgen_core.train.parallel import is_sharded

BUCKET_VALUES = 2**26
"""Values of a message over all processes: the first one holds them once more on its device, 256 MiB in fp32."""


class Part(NamedTuple):
    """This process's rows of a tensor sharded as `like` is: by its first dimension, in chunks of ceil(n / p)."""

    name: str
    local: Tensor
    like: Any


def full_tensors(parts: Mapping[str, tuple[Tensor, Any]]) -> dict[str, Tensor]:
    """Join tensors from (part, sharded tensor of its layout), on rank 0's host; all processes must call this, in order.

    The others receive nothing of them. A tensor whose layout is not sharded is returned as it is, to every process. On
    a GPU the host waits once, for the last copy.
    """
    full = {name: part for name, (part, like) in parts.items() if not is_sharded(like)}
    sharded = [Part(name, *part) for name, part in parts.items() if name not in full]
    for bucket in _buckets(sharded):
        full |= _gather(bucket)
    if sharded and sharded[0].local.is_cuda:
        torch.cuda.current_stream(sharded[0].local.device).synchronize()
    return {name: full[name] for name in parts if name in full}


def _buckets(parts: list[Part]) -> Iterator[list[Part]]:
    """Cut parts into messages of one dtype and of about equal size; a larger tensor has one of its own."""
    bucket, values = list[Part](), 0
    for part in parts:
        count = part.like.numel()
        if bucket and (values + count > BUCKET_VALUES or part.local.dtype != bucket[0].local.dtype):
            yield bucket
            bucket, values = [], 0
        bucket.append(part)
        values += count
    if bucket:
        yield bucket


def _gather(bucket: list[Part]) -> dict[str, Tensor]:
    """Gather one message; every process has a slot of its largest share for each tensor, padded."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    shapes = [(math.ceil(part.like.shape[0] / processes), *part.like.shape[1:]) for part in bucket]
    slots = [math.prod(shape) for shape in shapes]
    message = bucket[0].local.new_zeros(sum(slots))
    for part, slot in zip(bucket, message.split(slots), strict=True):
        slot[: part.local.numel()] = part.local.flatten()
    received = [torch.empty_like(message) for _ in range(processes)] if rank == 0 else None
    dist.gather(message, received)
    if received is None:
        return {}
    by_tensor = zip(*(each.split(slots) for each in received), strict=True)
    full = {}
    for part, shape, shares in zip(bucket, shapes, by_tensor, strict=True):
        joined = torch.cat([share.view(shape) for share in shares])[: part.like.shape[0]]
        host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=joined.is_cuda)
        full[part.name] = host.copy_(joined, non_blocking=True)
    return full
