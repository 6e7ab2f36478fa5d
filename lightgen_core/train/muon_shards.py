"""Muon's update where matrices are sharded by rows: each is made whole on one process, and its shares come back.

Momentum and weights never leave their process. What is sent are momentum-updated gradients, and orthogonal matrices
back: of p processes each sends and receives (p - 1) / p of its share of the parameters, twice, and iterates on 1 / p of
the matrices, where under ddp every process iterates on all of them.
"""

import math

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from lightgen_core.train.muon import orthogonalize


def orthogonalize_shards(
    parts: Float[Tensor, "n own_rows columns"], shape: tuple[int, int]
) -> Float[Tensor, "n own_rows columns"]:
    """Orthogonalise n matrices of one full shape, given this process's rows of each; all processes must call this.

    Rows are in chunks of ceil(rows / processes), as `fully_shard` cuts them. Matrix i is made whole on process
    i mod processes. On a GPU the result returns as bf16, which it was rounded to.
    """
    rank, processes = dist.get_rank(), dist.get_world_size()
    (count, own_rows, columns), rows = parts.shape, shape[0]
    chunk, turns = math.ceil(rows / processes), math.ceil(count / processes)
    sent = parts.new_zeros(turns * processes, chunk, columns)
    sent[:count, :own_rows] = parts
    received = _exchange(sent.unflatten(0, (turns, processes)).transpose(0, 1))
    mine = len(range(rank, count, processes))
    whole = received.transpose(0, 1).flatten(1, 2)[:mine, :rows]
    returned = parts.new_zeros(
        turns, processes * chunk, columns, dtype=torch.bfloat16 if parts.is_cuda else parts.dtype
    )
    if mine:
        returned[:mine, :rows] = orthogonalize(whole)
    shares = _exchange(returned.unflatten(1, (processes, chunk)).transpose(0, 1))
    return shares.transpose(0, 1).flatten(0, 1)[:count, :own_rows].to(parts.dtype)


def _exchange(
    sent: Float[Tensor, "processes turns chunk columns"],
) -> Float[Tensor, "processes turns chunk columns"]:
    """Send entry d to process d; return the entries that came, by sender."""
    sent = sent.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    return received
