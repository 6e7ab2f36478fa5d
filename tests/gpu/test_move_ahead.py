"""Micro-batches on fake CUDA tensors move one ahead: the order, the precision, and how many are there."""

import weakref
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from benchmarks.fake_cuda.mode import fake_cuda
from benchmarks.fake_cuda.steps import FakeTraining
from lightgen_core.train.move_ahead import MoveAhead
from lightgen_core.train.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("one_thread", "unchecked_shapes")


class Stream:
    """Notes who waits for what."""

    def __init__(self, name, log):
        self.name, self.log, self.events = name, log, 0

    def record_event(self):
        self.events += 1
        return self.events - 1

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for copy {event}")


@pytest.fixture
def log(monkeypatch):
    """Two streams; their waits in order, without those of one copy for each of its tensors."""
    log = []
    streams = {"computing": Stream("computing", log), "copying": Stream("copying", log)}
    monkeypatch.setattr("torch.cuda.Stream", lambda device: streams["copying"])
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: streams["computing"])
    monkeypatch.setattr("torch.cuda.stream", nullcontext)
    return log


def step_in_parts(log, rows=1):
    """Run the second of two steps of four rows, so many at once; the most inputs that were on the device, and waits."""
    moved, most = [], []
    copy, losses = MoveAhead._copy, TrainStep._losses

    def copying(self, part, *streams):
        log.append(f"move {part.row_offset}")
        result = copy(self, part, *streams)
        moved.append(weakref.ref(result[0].batch.text))
        return result

    def computing(self, step, part, model):
        log.append(f"compute {part.row_offset}")
        assert (part.batch.text.device.type, part.batch.text.dtype) == ("cuda", torch.float16)
        most.append(sum(each() is not None for each in moved))
        return losses(self, step, part, model)

    with fake_cuda() as cuda, mock.patch.object(MoveAhead, "_copy", copying):
        running = FakeTraining.start(cuda)
        with mock.patch.object(running.step._micro_batch, "of", lambda *_: rows):
            running.run(0)
            log.clear()
            with mock.patch.object(TrainStep, "_losses", computing):
                watch = running.run(1)
    return max(most), dict(watch.waits)


def test_a_part_moves_before_the_one_ahead_of_it_computes(log):
    assert step_in_parts(log) == (2, {})
    order = [line for line in log if line.startswith(("move", "compute "))]
    moves = ["move 0", "move 1", "compute 0", "move 2", "compute 1", "move 3", "compute 2", "compute 3"]
    assert order == moves


def test_memory_is_written_to_and_read_only_when_it_may_be(log):
    """A copy waits for what ran before it in the memory it fills, and its part's computation waits for the copy."""
    step_in_parts(log, rows=2)
    order = [line for line, before in zip(log, ["", *log], strict=False) if line != before]
    assert order == [
        "move 0",
        "copying waits for computing",
        "move 2",
        "copying waits for computing",
        "computing waits for copy 2",
        "compute 0",
        "computing waits for copy 3",
        "compute 2",
        "computing waits for copying",
    ]


def test_an_error_waits_for_the_copy_on_its_way(log):
    """Else the memory, free by then, would be written to while it serves another tensor."""
    with fake_cuda() as cuda:
        running = FakeTraining.start(cuda)
        with mock.patch.object(running.step._micro_batch, "of", lambda *_: 1):
            parts = running.step.prepare(0, running.rows)
        with pytest.raises(torch.OutOfMemoryError), MoveAhead(running.step._device).moving(parts) as next_part:
            next_part()
            raise torch.OutOfMemoryError
    assert log[-1] == "computing waits for copying"
