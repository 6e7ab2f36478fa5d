"""The host memory of snapshots: no tensor in another's, little beside them, and none for the second snapshot."""

import torch

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.mar import Student
from lightgen_core.train.async_checkpoint import AsyncCheckpointWriter
from lightgen_core.train.snapshot_memory import SnapshotMemory
from tests.factories.training_state import state_after

SHAPES = [(3, 5), (), (70,), (0, 4), (9, 2), (200,), (1,)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.float32, torch.bool, torch.float64]


def filled(memory, seed):
    """Tensors of all types, and their copies in the memory."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        (100 * torch.rand(shape, generator=generator)).to(dtype) for shape, dtype in zip(SHAPES, DTYPES, strict=True)
    ]
    return tensors, [memory.like(tensor).copy_(tensor) for tensor in tensors]


def test_tensors_side_by_side_keep_their_values():
    """The blocks are small, so that one tensor has a block of its own and others share one."""
    tensors, copies = filled(SnapshotMemory(page_locked=False, block=256), seed=0)
    assert all(copy.equal(tensor) for tensor, copy in zip(tensors, copies, strict=True))
    assert {copy.dtype for copy in copies} == set(DTYPES) and all(copy.is_contiguous() for copy in copies)


def test_a_second_snapshot_takes_the_memory_of_the_first():
    memory = SnapshotMemory(page_locked=False, block=1024)
    _, first = filled(memory, seed=0)
    held = memory.bytes
    memory.reuse()
    _, second = filled(memory, seed=1)
    assert memory.bytes == held
    assert [copy.data_ptr() for copy in second] == [copy.data_ptr() for copy in first]


def rounded(count):
    return 1 << (count - 1).bit_length()


def test_a_snapshot_of_the_papers_student_wastes_little_memory(monkeypatch):
    """Weights, average and two moments; rounded one by one, as the allocator does, they would take a tenth more."""
    with torch.device("meta"):
        weights = list(Student(MarConfig(), HeadConfig()).parameters())
    empty, taken = torch.empty, []
    monkeypatch.setattr("torch.empty", lambda size, **_: empty(size, dtype=torch.uint8, device="meta"))
    memory = SnapshotMemory(page_locked=True)
    for weight in 4 * weights:
        taken.append(memory.like(weight).nbytes)
    assert memory.bytes <= 1.03 * sum(taken)
    assert sum(map(rounded, taken)) >= 1.1 * sum(taken)


def test_checkpoints_of_a_run_are_copied_to_the_same_memory(tmp_path):
    with AsyncCheckpointWriter(tmp_path, keep=2, device=torch.device("cpu"), asynchronous=True) as writer:
        writer.save(state_after(3))
        held = writer._memory.bytes
        for step in (6, 9):
            writer.save(state_after(step))
    assert writer._memory.bytes == held > 0
