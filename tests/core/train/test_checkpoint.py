"""Checkpoints and saved students: they give back what was saved, and damaged ones are passed over or refused."""

import errno
import json
import logging
import os

import pytest
import torch

from lightgen_core.model.atomic_folder import write_folder
from lightgen_core.model.save import StudentError, load_student, save_student
from lightgen_core.train import checkpoint
from lightgen_core.train.state import TrainingState
from tests.factories.tiny_student import tiny_student, tiny_training
from tests.factories.training_state import RUN, state_after
from tests.support.contents import files_of


def damage(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    saved = state_after(3)
    checkpoint.save(tmp_path, saved, keep=2)
    found = checkpoint.latest(tmp_path)
    assert (found.step, found.rows, found.run) == (3, saved.rows, RUN)
    for part in ("model", "ema", "optimizer"):
        before, after = saved.tensors[part], found.tensors[part]
        assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)


def test_a_restored_optimizer_makes_the_same_update(tmp_path):
    student = tiny_student()
    state = TrainingState(student, tiny_training())
    saved = state_after(3)
    checkpoint.save(tmp_path, saved, keep=1)
    checkpoint.restore(checkpoint.latest(tmp_path), state)
    moments, expected = state.tensors()["optimizer"], saved.tensors["optimizer"]
    assert moments.keys() == expected.keys() and len(moments) == 3 * len(list(student.parameters()))
    assert all(moments[name].equal(expected[name]) for name in moments)


def test_equal_states_have_equal_bytes(tmp_path):
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, state_after(3), keep=1)
    assert files_of(tmp_path / "a/step-00000003") == files_of(tmp_path / "b/step-00000003")


def test_the_newest_checkpoints_are_kept(tmp_path):
    for step in (0, 3, 6, 9):
        checkpoint.save(tmp_path, state_after(step), keep=2)
    assert [path.name for path in checkpoint.saved_steps(tmp_path)] == ["step-00000006", "step-00000009"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("how", ["missing", "truncated", "one bit"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, name, how):
    for step in (3, 6):
        checkpoint.save(tmp_path, state_after(step), keep=2)
    damage(tmp_path / "step-00000006" / name, how)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(tmp_path).step == 3
    assert name in caplog.text and "step-00000006" in caplog.text
    what = {"missing": "is missing", "truncated": "were written", "one bit": "has changed"}[how]
    assert what in caplog.text or name == "checksums.json"


def test_without_a_sound_checkpoint_there_is_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, state_after(3), keep=2)
    damage(tmp_path / "step-00000003/model.safetensors", "one bit")
    assert checkpoint.latest(tmp_path) is None


def test_what_a_kill_leaves_half_written_is_not_a_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state_after(3), keep=2)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, state_after(6), keep=2)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path).step == 3
    checkpoint.save(tmp_path, state_after(6), keep=2)
    assert checkpoint.latest(tmp_path).step == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000006"]


def test_a_full_disk_keeps_the_old_checkpoint_and_no_new_part(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, state_after(3), keep=2)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; .* kept: .*step-00000006") as raised:
        checkpoint.save(tmp_path, state_after(6), keep=2)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint.save(tmp_path, state_after(3), keep=1)
    other = TrainingState(tiny_student("ddpm"), tiny_training())
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        checkpoint.restore(checkpoint.latest(tmp_path), other)


@pytest.fixture
def saved_student(tmp_path):
    student = tiny_student("flow")
    averages = {name: weight + 1 for name, weight in student.state_dict().items()}
    save_student(tmp_path / "student", student, averages, {"patch": 2, "sampler": {"iterations": 4}})
    return tmp_path / "student", student


@pytest.mark.parametrize(("weights", "offset"), [("raw", 0.0), ("ema", 1.0)])
def test_a_loaded_student_has_the_saved_weights(saved_student, weights, offset):
    folder, student = saved_student
    loaded, info = load_student(folder, weights=weights)
    assert info == {"patch": 2, "sampler": {"iterations": 4}}
    assert loaded.mar.config == student.mar.config and loaded.head.config == student.head.config
    assert not loaded.training
    for name, weight in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight + offset if offset else weight)


def test_a_student_saved_under_former_names_loads(saved_student):
    folder, student = saved_student
    former = {"mar.null_text": "mar.null_word", "mar.cross_blocks.": "mar.reader.", "mar.cross_": "mar.reader_"}

    def renamed(name: str) -> str:
        return next((old + name.removeprefix(new) for new, old in former.items() if name.startswith(new)), name)

    tensors = {renamed(name): tensor for name, tensor in student.state_dict().items()}
    assert tensors.keys() != student.state_dict().keys()
    config = json.loads((folder / "config.json").read_bytes())
    write_folder(folder, {"model": tensors, "ema": tensors}, {"config": config})
    loaded, _ = load_student(folder, weights="raw")
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in student.state_dict().items())


def test_a_student_saved_twice_has_the_same_bytes(saved_student, tmp_path):
    folder, _ = saved_student
    loaded, info = load_student(folder, weights="raw")
    averages = load_student(folder)[0].state_dict()
    save_student(tmp_path / "again", loaded, averages, info)
    assert files_of(tmp_path / "again") == files_of(folder)


def test_a_student_can_replace_another(saved_student):
    folder, student = saved_student
    save_student(folder, student, student.state_dict(), {"patch": 4})
    assert load_student(folder)[1] == {"patch": 4}


def test_a_damaged_student_is_refused(saved_student):
    folder, _ = saved_student
    damage(folder / "ema.safetensors", "one bit")
    with pytest.raises(StudentError, match=r"ema.safetensors has changed"):
        load_student(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 7}, "format 7; this version reads 1"), ({"head": {"width": 16, "depth": 2}}, "does not fit")],
)
def test_a_student_of_another_kind_is_refused(saved_student, monkeypatch, change, message):
    folder, _ = saved_student
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | change))
    monkeypatch.setattr("lightgen_core.model.save.verify_folder", lambda folder: None)
    with pytest.raises(StudentError, match=message):
        load_student(folder)


def test_a_folder_without_a_student_is_refused(tmp_path):
    with pytest.raises(StudentError, match="holds no student"):
        load_student(tmp_path)


def test_unknown_weights_are_refused(saved_student):
    with pytest.raises(StudentError, match="choose ema or raw"):
        load_student(saved_student[0], weights="best")


def test_averages_of_another_student_are_refused(tmp_path):
    student = tiny_student()
    with pytest.raises(StudentError, match="do not match"):
        save_student(tmp_path / "student", student, {"other": torch.zeros(1)}, {})
