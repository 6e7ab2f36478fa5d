"""Checkpoints written in a thread, forced on a CPU: the bytes, the order and the errors of those written at once."""

import threading

import pytest
import torch

from lightgen_core.train import checkpoint
from lightgen_core.train.async_checkpoint import AsyncCheckpointWriter
from tests.factories.training_state import state_after
from tests.support.contents import files_of

CPU = torch.device("cpu")


def in_thread(folder):
    return AsyncCheckpointWriter(folder, keep=2, device=CPU, asynchronous=True)


def test_checkpoints_from_the_thread_have_equal_bytes(tmp_path):
    """The same bytes as those written at once."""
    for name, asynchronous in (("now", None), ("thread", True)):
        with AsyncCheckpointWriter(tmp_path / name, keep=2, device=CPU, asynchronous=asynchronous) as writer:
            for step in (3, 6, 9):
                writer.save(state_after(step, seed=step))
    assert [path.name for path in checkpoint.saved_steps(tmp_path / "thread")] == ["step-00000006", "step-00000009"]
    for step in (6, 9):
        assert files_of(tmp_path / f"thread/step-{step:08d}") == files_of(tmp_path / f"now/step-{step:08d}")


def test_what_is_written_is_the_state_at_the_call(tmp_path, monkeypatch):
    """The thread is held until the weights have changed."""
    changed, save = threading.Event(), checkpoint.save

    def held(*given):
        assert changed.wait(300)
        return save(*given)

    monkeypatch.setattr("lightgen_core.train.checkpoint.save", held)
    state = state_after(3)
    before = {name: tensor.clone() for name, tensor in state.tensors["model"].items()}
    with in_thread(tmp_path) as writer:
        writer.save(state)
        for tensor in state.tensors["model"].values():
            tensor.detach().add_(1)
        changed.set()
    found = checkpoint.latest(tmp_path).tensors["model"]
    assert all(found[name].equal(tensor) for name, tensor in before.items())


def test_one_checkpoint_is_written_at_a_time(tmp_path, monkeypatch):
    running, most, save = [], [], checkpoint.save

    def counted(*given):
        running.append(1)
        most.append(len(running))
        save(*given)
        running.pop()

    monkeypatch.setattr("lightgen_core.train.checkpoint.save", counted)
    with in_thread(tmp_path) as writer:
        for step in (3, 6, 9):
            writer.save(state_after(step))
    assert most == [1, 1, 1]


@pytest.mark.parametrize("then", ["next save", "end"])
def test_an_error_of_the_thread_is_raised_in_training(tmp_path, monkeypatch, then):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("lightgen_core.train.checkpoint.save", full)
    with pytest.raises(OSError, match="No space left"), in_thread(tmp_path) as writer:
        writer.save(state_after(3))
        if then == "next save":
            monkeypatch.undo()
            writer.save(state_after(6))
            pytest.fail("the error of the first save was not raised")


def test_a_thread_killed_half_way_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with in_thread(tmp_path) as writer:
        writer.save(state_after(3))
    monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt), in_thread(tmp_path) as writer:
        writer.save(state_after(6))
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path).step == 3
