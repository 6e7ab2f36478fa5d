"""Dynamic batching: requests that wait are sampled together, up to a limit; what is accepted is answered."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many images wait as may; the same request may succeed later."""


class Closed(Exception):
    """Nothing is accepted any more: the server ends."""


@dataclass(frozen=True, eq=False)
class Masked:
    """An image uint8 (height, width, 3), of which the tokens that a mask (height, width) touches are sampled anew."""

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class ImageRequest:
    """One image; those with equal samplers (`SamplerConfig` as JSON) and grids (tokens) may be sampled together.

    masked: to be inpainted; then only the images of one `Masked` are sampled together.
    """

    prompt: str
    seed: int
    sampler: str
    grid: tuple[int, int]
    masked: Masked | None = None

    @property
    def group(self) -> Hashable:
        """Fields that all images of a batch share."""
        return self.sampler, self.grid, self.masked


@dataclass
class Counts:
    """Images since the start. batches: calls of the sampler; refused: images that found the queue full."""

    accepted: int = 0
    served: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    batches: int = 0


@dataclass
class _Waiting:
    request: ImageRequest
    future: "Future[np.ndarray]" = field(default_factory=Future)


class Batcher:
    """One thread that samples what waits, in order of arrival; safe to use from several threads.

    Args:
        sample: (requests of one group) -> an image uint8 (height, width, 3) for each.
        max_batch: images sampled at once.
        max_queue: images that may wait, beside those that are being sampled.
        max_wait: seconds that the first of a batch waits for more to come.
    """

    def __init__(
        self,
        sample: Callable[[Sequence[ImageRequest]], Iterable[np.ndarray]],
        max_batch: int = 16,
        max_queue: int = 64,
        max_wait: float = 0.005,
    ) -> None:
        self._sample, self.max_batch, self.max_queue, self.max_wait = sample, max_batch, max_queue, max_wait
        self.counts = Counts()
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._queue)

    @property
    def closed(self) -> bool:
        """True once nothing more is accepted."""
        return self._closed

    def submit(self, requests: Sequence[ImageRequest]) -> list["Future[np.ndarray]"]:
        """Accept all requests or none; a future that is cancelled before its turn costs nothing.

        Raises:
            QueueFull: they do not fit into the queue.
            Closed: `close` was called.
        """
        with self._changed:
            if self._closed:
                raise Closed("the server ends and accepts nothing more")
            if len(self._queue) + len(requests) > self.max_queue:
                self.counts.refused += len(requests)
                raise QueueFull(f"{len(self._queue)} images wait, of at most {self.max_queue}")
            entries = [_Waiting(request) for request in requests]
            self._queue.extend(entries)
            self.counts.accepted += len(entries)
            self._changed.notify()
        return [entry.future for entry in entries]

    def close(self) -> None:
        """Accept nothing more, and return when all that was accepted is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Wait for the next batch; [] once the queue is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                first, until = self._queue[0].request.group, time.monotonic() + self.max_wait
                while self._count(first) < self.max_batch and not self._closed:
                    if not self._changed.wait(max(0.0, until - time.monotonic())):
                        break
                if batch := self._take(first):
                    return batch

    def _count(self, group: Hashable) -> int:
        return sum(entry.request.group == group for entry in self._queue)

    def _take(self, group: Hashable) -> list[_Waiting]:
        """Take requests of a group off the queue, the earliest first, without those that were cancelled."""
        batch: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        for entry in self._queue:
            if entry.request.group != group or len(batch) == self.max_batch:
                left.append(entry)
            elif entry.future.set_running_or_notify_cancel():
                batch.append(entry)
            else:
                self.counts.cancelled += 1
        self._queue = left
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        """Sample a batch; if that fails, each of its images alone, so that one cannot spoil the others."""
        self.counts.batches += 1
        try:
            images = list(self._sample([entry.request for entry in batch]))
        except Exception as error:
            if len(batch) > 1:
                logger.exception("a batch of %d images failed; each is tried alone", len(batch))
                for entry in batch:
                    self._answer([entry])
                return
            logger.exception("an image failed: %r", batch[0].request.prompt)
            self.counts.failed += 1
            batch[0].future.set_exception(error)
            return
        self.counts.served += len(batch)
        for entry, image in zip(batch, images, strict=True):
            entry.future.set_result(image)
