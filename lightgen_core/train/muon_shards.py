"""Muon's update in several processes: each iterates on its share of the matrices, and the others receive the result.

Under ddp every process has all matrices, and what is sent are orthogonal ones. Under fsdp they are sharded by rows:
each is made whole on one process, and its rows come back. Momentum and weights never leave their process. All shapes
travel in one message, so that processes wait for each other once: a message for each shape took longer than it saved.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lightgen_core.train.muon import ITERATIONS, orthogonalize


def orthogonalize_shared(
    stacks: Sequence[Float[Tensor, "_ _ _"]], shapes: Sequence[tuple[int, ...]], steps: int = ITERATIONS
) -> list[Float[Tensor, "_ _ _"]]:
    """Orthogonalise stacks of matrices that all processes have alike; all processes must call this."""
    rank, dealt = dist.get_rank(), _deal(stacks)
    sizes = [sum(stack[share].numel() for stack, share in zip(stacks, shares, strict=True)) for shares in dealt]
    message = stacks[0].new_zeros(max(sizes), dtype=_sent_dtype(stacks[0]))
    mine = [stack[share] for stack, share in zip(stacks, dealt[rank], strict=True)]
    slots = message[: sizes[rank]].split([*map(Tensor.numel, mine)])
    for made, slot in zip(_made(mine, steps), slots, strict=True):
        slot.copy_(made.flatten())
    received = message.new_empty(len(dealt), len(message))
    dist.all_gather_into_tensor(received.view(-1), message)
    updates = [torch.empty_like(stack) for stack in stacks]
    for shares, size, values in zip(dealt, sizes, received, strict=True):
        parts = [update[share] for update, share in zip(updates, shares, strict=True)]
        for part, slot in zip(parts, values[:size].split([*map(Tensor.numel, parts)]), strict=True):
            part.copy_(slot.view(part.shape))
    return updates


def orthogonalize_shards(
    stacks: Sequence[Float[Tensor, "_ _ _"]], shapes: Sequence[tuple[int, ...]], steps: int = ITERATIONS
) -> list[Float[Tensor, "_ _ _"]]:
    """Orthogonalise matrices of full `shapes`, given this process's rows of each; all processes must call this.

    Rows are in chunks of ceil(rows / processes), as `fully_shard` cuts them.
    """
    rank, dealt = dist.get_rank(), _deal(stacks)
    processes = len(dealt)
    chunks = [math.ceil(shape[0] / processes) for shape in shapes]
    padded = [
        functional.pad(stack, (0, 0, 0, chunk - stack.shape[1])) for stack, chunk in zip(stacks, chunks, strict=True)
    ]
    shares_of = [[stack[share] for stack, share in zip(padded, shares, strict=True)] for shares in dealt]
    mine = shares_of[rank]
    by_source = _exchange(shares_of, [mine] * processes)
    whole = [
        torch.cat(chunks_of_one, dim=1)[:, : shape[0]]
        for chunks_of_one, shape in zip(zip(*by_source, strict=True), shapes, strict=True)
    ]
    made = [
        functional.pad(update.to(_sent_dtype(update)), (0, 0, 0, processes * chunk - update.shape[1]))
        for update, chunk in zip(_made(whole, steps), chunks, strict=True)
    ]
    by_row = [[update.unflatten(1, (processes, -1))[:, process] for update in made] for process in range(processes)]
    updates = [torch.empty_like(stack) for stack in stacks]
    for shares, received in zip(dealt, _exchange(by_row, shares_of), strict=True):
        for update, share, rows in zip(updates, shares, received, strict=True):
            update[share] = rows[:, : update.shape[1]]
    return updates


def _deal(stacks: Sequence[Tensor]) -> list[list[slice]]:
    """Return for each process which matrices of each stack it makes: dealt one by one, on from stack to stack."""
    processes = dist.get_world_size()
    before = accumulate(map(len, stacks[:-1]), initial=0)
    firsts = [-start % processes for start in before]
    return [[slice((first + process) % processes, None, processes) for first in firsts] for process in range(processes)]


def _made(stacks: Sequence[Tensor], steps: int) -> list[Tensor]:
    return [orthogonalize(stack, steps) if len(stack) else stack for stack in stacks]


def _sent_dtype(matrices: Tensor) -> torch.dtype:
    """Return bf16 for a GPU, where `orthogonalize` rounds to it."""
    return torch.bfloat16 if matrices.is_cuda else matrices.dtype


def _exchange(sent: Sequence[Sequence[Tensor]], like: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Send tensors d to process d, in one message; return those that came from process s, shaped as `like` s."""
    outgoing = [torch.cat([tensor.flatten() for tensor in tensors]) for tensors in sent]
    sizes = [[tensor.numel() for tensor in tensors] for tensors in like]
    received = outgoing[0].new_empty(sum(map(sum, sizes)))
    dist.all_to_all_single(received, torch.cat(outgoing), [*map(sum, sizes)], [*map(len, outgoing)])
    return [
        [part.view(tensor.shape) for part, tensor in zip(message.split(split), tensors, strict=True)]
        for message, split, tensors in zip(received.split([*map(sum, sizes)]), sizes, like, strict=True)
    ]
