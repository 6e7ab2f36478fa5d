"""Muon's update in several processes: each iterates on its share of the matrices, and the others receive the result.

Under ddp every process has all matrices, and what is sent are orthogonal ones. Under fsdp they are sharded by rows:
each is made whole on one process, and its rows come back. Momentum and weights never leave their process.
"""

import math

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from lightgen_core.train.muon import ITERATIONS, orthogonalize


def orthogonalize_shared(
    matrices: Float[Tensor, "n rows columns"], shape: tuple[int, ...], steps: int = ITERATIONS, before: int = 0
) -> Float[Tensor, "n rows columns"]:
    """Orthogonalise n matrices that all processes have alike, each in one of them; all processes must call this.

    Matrix i is made on process (before + i) mod processes.
    """
    rank, processes, count = dist.get_rank(), dist.get_world_size(), len(matrices)
    mine = matrices[(rank - before) % processes :: processes]
    sent = matrices.new_zeros(math.ceil(count / processes), *shape, dtype=_sent_dtype(matrices))
    if len(mine):
        sent[: len(mine)] = orthogonalize(mine, steps)
    received = sent.new_empty(processes * len(sent), *shape)
    dist.all_gather_into_tensor(received, sent)
    in_order = received.unflatten(0, (processes, -1)).roll(-before, 0).transpose(0, 1).flatten(0, 1)
    return in_order[:count].to(matrices.dtype)


def orthogonalize_shards(
    parts: Float[Tensor, "n own_rows columns"], shape: tuple[int, ...], steps: int = ITERATIONS, before: int = 0
) -> Float[Tensor, "n own_rows columns"]:
    """Orthogonalise n matrices of one full shape, given this process's rows of each; all processes must call this.

    Rows are in chunks of ceil(rows / processes), as `fully_shard` cuts them. Matrix i is made whole on process
    (before + i) mod processes.
    """
    rank, processes = dist.get_rank(), dist.get_world_size()
    (count, own_rows, columns), rows = parts.shape, shape[0]
    chunk, turns = math.ceil(rows / processes), math.ceil(count / processes)
    sent = parts.new_zeros(turns * processes, chunk, columns)
    sent[:count, :own_rows] = parts
    received = _exchange(sent.unflatten(0, (turns, processes)).transpose(0, 1).roll(before, 0))
    mine = len(range((rank - before) % processes, count, processes))
    whole = received.transpose(0, 1).flatten(1, 2)[:mine, :rows]
    returned = parts.new_zeros(turns, processes * chunk, columns, dtype=_sent_dtype(parts))
    if mine:
        returned[:mine, :rows] = orthogonalize(whole, steps)
    shares = _exchange(returned.unflatten(1, (processes, chunk)).transpose(0, 1)).roll(-before, 0)
    return shares.transpose(0, 1).flatten(0, 1)[:count, :own_rows].to(parts.dtype)


def _sent_dtype(matrices: Tensor) -> torch.dtype:
    """Return bf16 for a GPU, where `orthogonalize` rounds to it."""
    return torch.bfloat16 if matrices.is_cuda else matrices.dtype


def _exchange(
    sent: Float[Tensor, "processes turns chunk columns"],
) -> Float[Tensor, "processes turns chunk columns"]:
    """Send entry d to process d; return the entries that came, by sender."""
    sent = sent.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    return received
