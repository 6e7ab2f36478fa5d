"""The host memory of a snapshot of tensors, kept for the next one."""

import torch
from torch import Tensor

BLOCK = 1 << 28
"""Bytes of a block. The allocator of page-locked memory rounds every request up to a power of two."""

_ALIGNED = 64
"""Bytes, so that every type and the copy engine find a place to begin."""


class SnapshotMemory:
    """Tensors on the host that lie side by side in blocks, so that little more is held than they need.

    The first snapshot takes the memory, others of the same tensors take it again. One snapshot is in use at a time.
    """

    def __init__(self, page_locked: bool, block: int = BLOCK):
        self._page_locked, self._block = page_locked, block
        self._blocks: list[Tensor] = []
        self._used: list[int] = []

    @property
    def bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(map(len, self._blocks))

    def reuse(self) -> None:
        """Give the memory of all tensors up: those of the last snapshot may be overwritten from now on."""
        self._used = [0] * len(self._blocks)

    def like(self, tensor: Tensor) -> Tensor:
        """Return a contiguous tensor of the same shape and dtype, without values."""
        needed = -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        room = zip(self._blocks, self._used, strict=True)
        number = next((n for n, (block, used) in enumerate(room) if used + needed <= len(block)), len(self._blocks))
        if number == len(self._blocks):
            size = max(self._block, needed)
            self._blocks.append(torch.empty(size, dtype=torch.uint8, pin_memory=self._page_locked))
            self._used.append(0)
        start = self._used[number]
        self._used[number] += needed
        return self._blocks[number][start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
