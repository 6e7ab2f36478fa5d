"""Micro-batches on their way to the device: on a GPU the next one's copy runs beside the one that computes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lightgen_core.train.micro_batch import MicroBatch


class MoveAhead:
    """Moves the micro-batches of a step to a GPU one ahead, as they are stored; on a CPU they stay where they are.

    The memory is of the stream that computes, and the stream that copies waits for what ran there before. So a part's
    memory is used again for the one after the next, however far the host is ahead, and two are there at most. With
    memory of the second stream (`record_stream`) the host would find none of it free, and move all parts at once.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def moving(self, parts: Sequence[MicroBatch]) -> Iterator[Callable[[], MicroBatch]]:
        """Yield a function that returns the next part; a single one, or one for a CPU, as it is."""
        if self._device.type != "cuda" or len(parts) == 1:
            yield iter(parts).__next__
            return
        stream = self._stream = self._stream or torch.cuda.Stream(self._device)
        computing, waiting = torch.cuda.current_stream(self._device), deque(parts)
        moved: deque[tuple[MicroBatch, torch.cuda.Event]] = deque()

        def advance() -> None:
            if waiting:
                moved.append(self._copy(waiting.popleft(), stream, computing))

        def next_part() -> MicroBatch:
            if not moved:
                advance()
            part, copied = moved.popleft()
            advance()
            computing.wait_event(copied)
            return part

        try:
            yield next_part
        finally:  # after an error a copy may still write to memory that is free from now on
            computing.wait_stream(stream)

    def _copy(
        self, part: MicroBatch, stream: torch.cuda.Stream, computing: torch.cuda.Stream
    ) -> tuple[MicroBatch, torch.cuda.Event]:
        """Copy a part on a stream. Return it on the device, and an event of its end."""

        def to_device(tensor: Tensor) -> Tensor:
            target = torch.empty_like(tensor, device=self._device)
            stream.wait_stream(computing)
            with torch.cuda.stream(stream):
                return target.copy_(tensor, non_blocking=True)

        return part.map_tensors(to_device), stream.record_event()
