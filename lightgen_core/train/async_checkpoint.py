"""Checkpoints written while training goes on: at most one at a time, and none lost without an error."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from lightgen_core.train import checkpoint as checkpoints
from lightgen_core.train.checkpoint import Checkpoint
from lightgen_core.train.snapshot_memory import SnapshotMemory


class AsyncCheckpointWriter:
    """Saves checkpoints of a run: in a thread where the tensors live on a GPU, at once where they live on the CPU.

    On a GPU a second stream copies the tensors to page-locked memory while the next step's forward and backward pass
    read them; only what would change them waits for the copy (`wait_for_copy`), on the device and not on the host.
    """

    def __init__(self, folder: Path, keep: int, device: torch.device, asynchronous: bool | None = None):
        """asynchronous: None asks the device; True on a CPU copies first and writes in the thread."""
        self._folder, self._keep, self._device = folder, keep, device
        self._asynchronous = device.type == "cuda" if asynchronous is None else asynchronous
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: torch.cuda.Event | None = None
        self._memory = SnapshotMemory(page_locked=self._stream is not None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; its tensors may change after `wait_for_copy`. Raises OSError, also for the one before."""
        self.wait()
        if not self._asynchronous:
            checkpoints.save(self._folder, checkpoint, self._keep)
            return
        copy, copied = self._copy(checkpoint)
        self._copied = copied

        def write() -> None:
            if copied is not None:
                copied.synchronize()
            checkpoints.save(self._folder, copy, self._keep)

        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, and raise its error."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def wait_for_copy(self) -> None:
        """Make the device wait for the copy of tensors that are about to change."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
            self._copied = None

    def _copy(self, checkpoint: Checkpoint) -> tuple[Checkpoint, torch.cuda.Event | None]:
        stream = self._stream

        def to_host(tensor: Tensor) -> Tensor:
            if stream is not None and tensor.device.type == "cuda":
                tensor.record_stream(stream)
            return self._memory.like(tensor).copy_(tensor, non_blocking=True)

        self._memory.reuse()  # the snapshot before is written
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self._device))
        with contextlib.nullcontext() if stream is None else torch.cuda.stream(stream), torch.no_grad():
            tensors = {
                part: {name: to_host(tensor) for name, tensor in group.items()}
                for part, group in checkpoint.tensors.items()
            }
            return replace(checkpoint, tensors=tensors), None if stream is None else stream.record_event()
