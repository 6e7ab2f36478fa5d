"""Loss on held-out rows while a student trains: a direct computation's value, and no trace in the training."""

import copy

import numpy as np
import pytest
import torch

from lightgen_core.data.batches import TokenSource
from lightgen_core.data.held_out import HeldOutRows
from lightgen_core.train.state import TrainingState
from lightgen_core.train.step_noise import StepNoise, step_generator
from lightgen_core.train.validation import HeldOutLoss
from tests.factories.tiny_student import (
    PATCH,
    TOKEN_WIDTH,
    TOKENS,
    tiny_student,
    tiny_training,
    token_losses,
    train,
    write_buckets,
    write_rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")

HELD_OUT = np.arange(100, 107)
SEED, CPU = 11, torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("tokens") / "tokens.parquet", rows=20)


def held_out(files, student, every=2, batch_size=3, keep=HELD_OUT):
    rows = HeldOutRows(files, patch=PATCH, batch_size=batch_size, seed=SEED, keep=keep)
    return HeldOutLoss.create(student, rows, tiny_training(), every)


def trained(tokens, folder, validate=True, student=None, **changes):
    student = student or tiny_student()
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7, keep=np.arange(107, 120))
    validation = held_out([tokens], student) if validate else None
    config = tiny_training(**changes)
    return train(student, source, config, seed=7, folder=folder, device=CPU, validation=validation)


def direct_loss(student, files):
    """The held-out loss of a student, row by row, without the code that it tests."""
    rows, losses, config = HeldOutRows(files, patch=PATCH, batch_size=3, seed=SEED, keep=HELD_OUT), [], tiny_training()
    for part, start in enumerate(range(0, len(HELD_OUT), 3)):
        batch = rows.part(part).to(CPU)
        assert batch.ids.tolist() == HELD_OUT[start : start + 3].tolist(), "each row once, in order"
        objective = held_out(files, student).criterion.objective
        shape, generator = (TOKENS, TOKEN_WIDTH), step_generator(SEED, part)
        noise = StepNoise.sample(config.model_copy(update={"batch_size": 3}), shape, objective, generator)
        noise = noise.rows(0, len(batch.ids))
        with torch.no_grad():
            found = token_losses(student.eval(), batch.tokens, batch.text, batch.text_mask, batch.grid, noise)
        losses += found.mean(dim=(0, 2)).tolist()
    return sum(losses) / len(losses)


def test_the_loss_is_the_averaged_weights_computed_directly(tmp_path, tokens):
    result = trained(tokens, tmp_path)
    averaged = tiny_student()
    averaged.load_state_dict(result.ema)
    assert result.rows[-1]["validation_loss"] == pytest.approx(direct_loss(averaged, [tokens]), rel=1e-6)
    raw = tiny_student()
    raw.load_state_dict(result.raw)
    assert abs(direct_loss(raw, [tokens]) - direct_loss(averaged, [tokens])) > 1e-4, "the two can be told apart"


def test_measuring_leaves_weights_and_log_as_they_are(tmp_path, tokens):
    plain, measured = trained(tokens, tmp_path / "plain", validate=False), trained(tokens, tmp_path / "measured")
    assert [row.pop("validation_loss", None) is not None for row in measured.rows] == [False, True] * 3
    assert measured.rows == plain.rows
    for name, weight in plain.raw.items():
        assert torch.equal(weight, measured.raw[name]) and torch.equal(plain.ema[name], measured.ema[name])


def test_it_is_measured_every_so_many_steps_and_at_the_last(tmp_path, tokens):
    found = trained(tokens, tmp_path, steps=5).rows
    assert [row["step"] for row in found if "validation_loss" in row] == [2, 4, 5]


def test_two_measurements_of_the_same_weights_are_equal(tokens):
    student = tiny_student()
    state, loss = TrainingState(student, tiny_training()), held_out([tokens], student)
    assert loss.measure(state, CPU) == loss.measure(state, CPU)


def test_an_error_while_measuring_puts_weights_and_mode_back(tokens, monkeypatch):
    student = tiny_student()
    state, loss = TrainingState(student, tiny_training()), held_out([tokens], student)
    with torch.no_grad():
        next(iter(state.weights.values())).add_(1)
    before, averages = copy.deepcopy(student.state_dict()), copy.deepcopy(state.ema.state_dict())
    monkeypatch.setattr(type(loss.rows), "part", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.measure(state, CPU)
    assert student.training and all(torch.equal(before[name], now) for name, now in student.state_dict().items())
    assert all(torch.equal(averages[name], now) for name, now in state.ema.state_dict().items())


def test_rows_of_several_shapes_are_measured_once_each(tmp_path):
    files = write_buckets(tmp_path, {(6, 6): 5, (4, 8): 4})
    rows = HeldOutRows(files, patch=PATCH, batch_size=3, seed=SEED, keep=np.array([100, 102, 103, 104, 106, 108]))
    parts = [rows.part(number) for number in range(len(rows))]
    assert [part.ids.tolist() for part in parts] == [[106, 108], [100, 102, 103], [104]]
    assert rows.rows == 6 and {part.grid for part in parts} == {(3, 3), (2, 4)}
