"""Pre-training: resumed runs, broken steps, optimizer, learning rates and averages."""

import math
import os
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lightgen_core.config import OptimizerConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.seeds import derive_seed
from lightgen_core.train.checkpoint import CheckpointError
from lightgen_core.train.ema import Ema, ema_decay
from lightgen_core.train.optimizer import learning_rate, make_optimizer, param_groups
from lightgen_core.train.parallel import local_parameters
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import NonFiniteLossError, TrainStep
from tests.factories.tiny_student import (
    CHANNELS,
    LONGEST,
    PATCH,
    SIDE,
    TEXT_WIDTH,
    TOKEN_WIDTH,
    tiny_student,
    tiny_training,
    train,
    write_rows,
)
from tests.support.paths import PROGRAMS, ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("tokens") / "tokens.parquet", rows=10)


def run(tokens, folder, objective="v", student=None, on_log=None, **changes):
    config = tiny_training(**changes)
    student = student or tiny_student(objective)
    source = TokenSource([tokens], patch=PATCH, batch_size=config.batch_size, seed=7)
    return student, train(student, source, config, seed=7, folder=folder, device=CPU, on_log=on_log)


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt_at(step):
    def on_log(row):
        if row["step"] == step:
            raise Interrupted

    return on_log


def last_checkpoint(folder):
    return {path.name: path.read_bytes() for path in (folder / "step-00000006").iterdir()}


@pytest.mark.parametrize(
    ("objective", "precision"), [("ddpm", "fp32"), ("v", "fp32"), ("flow", "fp32"), ("v", "bf16"), ("ddpm", "bf16")]
)
def test_six_steps_equal_three_saved_and_three_more(tmp_path, tokens, objective, precision):
    _, whole = run(tokens, tmp_path / "whole", objective, precision=precision)
    with pytest.raises(Interrupted):
        run(tokens, tmp_path / "parts", objective, precision=precision, on_log=interrupt_at(5))
    torch.rand(3)  # the caller's chance must not matter
    student, resumed = run(tokens, tmp_path / "parts", objective, precision=precision)
    assert last_checkpoint(tmp_path / "parts") == last_checkpoint(tmp_path / "whole")
    assert resumed.rows == whole.rows and [row["step"] for row in whole.rows] == [1, 2, 3, 4, 5, 6]
    assert resumed.ema.keys() == student.state_dict().keys()
    assert all(resumed.ema[name].equal(whole.ema[name]) for name in whole.ema)


def test_a_process_killed_in_the_middle_ends_with_the_same_bytes(tmp_path, tokens):
    run(tokens, tmp_path / "whole")
    command = [sys.executable, str(PROGRAMS / "train_and_die.py"), str(tokens), str(tmp_path / "killed"), "5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in (tmp_path / "killed").glob("step-*")] == ["step-00000003"]
    run(tokens, tmp_path / "killed")
    assert last_checkpoint(tmp_path / "killed") == last_checkpoint(tmp_path / "whole")


def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(tmp_path, tokens):
    run(tokens, tmp_path)
    before = last_checkpoint(tmp_path)
    (tmp_path / "step-00000006/model.safetensors").write_bytes(b"")
    _, again = run(tokens, tmp_path)
    assert last_checkpoint(tmp_path) == before
    assert [lap["step"] for lap in again.timings] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_not_trained_again(tmp_path, tokens):
    student, first = run(tokens, tmp_path)
    calls = []
    again, second = run(tokens, tmp_path, on_log=calls.append)
    assert calls == [] and second.rows == first.rows and second.step == 6
    assert all(weight.equal(again.state_dict()[name]) for name, weight in student.state_dict().items())


def test_log_rows_are_means_over_their_steps(tmp_path, tokens):
    _, fine = run(tokens, tmp_path / "fine")
    _, coarse = run(tokens, tmp_path / "coarse", log_every=4, checkpoint_every=4)
    losses = [row["loss"] for row in fine.rows]
    assert [row["step"] for row in coarse.rows] == [4, 6]
    assert [row["loss"] for row in coarse.rows] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 2], rel=1e-6)


def test_timings_cover_every_step_of_a_run_that_was_cut(tmp_path, tokens):
    with pytest.raises(Interrupted):
        run(tokens, tmp_path, on_log=interrupt_at(5))
    _, result = run(tokens, tmp_path)
    assert [lap["step"] for lap in result.timings] == [1, 2, 3, 4, 5, 6]
    assert all(lap["images_per_second"] * lap["seconds"] == pytest.approx(4) for lap in result.timings)


def test_a_set_of_one_image_is_learned(tmp_path):
    image = np.linspace(-1, 1, CHANNELS * SIDE * SIDE).astype(np.float16).tobytes()
    file = write_rows(tmp_path / "tokens.parquet", rows=4, latents=[image] * 4)
    _, result = run(file, tmp_path / "run", steps=120, log_every=10, checkpoint_every=120)
    assert result.rows[-1]["loss"] < 0.3 * result.rows[0]["loss"]


def test_training_leaves_the_callers_random_state_alone(tmp_path, tokens):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(tokens, tmp_path, steps=1)
    assert torch.rand(2).equal(expected)


def test_another_configuration_does_not_go_on_from_a_folder(tmp_path, tokens):
    run(tokens, tmp_path)
    with pytest.raises(CheckpointError, match="another steps"):
        run(tokens, tmp_path, steps=9)


def test_a_source_of_another_batch_size_is_refused(tmp_path, tokens):
    source = TokenSource([tokens], patch=PATCH, batch_size=5, seed=7)
    with pytest.raises(ValueError, match="gives 5 rows a step, the configuration 4"):
        train(tiny_student(), source, tiny_training(), seed=7, folder=tmp_path, device=CPU)


def test_a_row_that_is_not_finite_is_named_and_changes_no_weight(tmp_path):
    latents = np.random.default_rng(0).standard_normal((10, CHANNELS, SIDE, SIDE)).astype(np.float16)
    latents[7, 1, 2, 3] = np.inf
    file = write_rows(tmp_path / "tokens.parquet", rows=10, latents=[image.tobytes() for image in latents])
    source = TokenSource([file], patch=PATCH, batch_size=4, seed=7)
    bad = next(step for step in range(6) if 107 in source.batch(step).ids)
    weights = []
    student = tiny_student()

    def remember(row):
        weights.append({name: weight.clone() for name, weight in student.state_dict().items()})

    with pytest.raises(NonFiniteLossError, match=f"step {bad}: the loss is not finite, rows 107;"):
        run(file, tmp_path / "run", student=student, on_log=remember)
    assert len(weights) == bad
    before = weights[-1] if weights else tiny_student().state_dict()
    assert all(weight.equal(before[name]) for name, weight in student.state_dict().items())


def test_a_student_that_diverges_is_told_from_bad_rows(tmp_path, tokens):
    optimizer = {"learning_rate": 1e12, "warmup_steps": 0, "max_grad_norm": 1e12}
    with pytest.raises(NonFiniteLossError) as caught:
        run(tokens, tmp_path / "run", optimizer=tiny_training().optimizer.model_copy(update=optimizer))
    assert str(caught.value).startswith("the student has diverged: at step ")
    assert "Lower optimizer.learning_rate (1e+12)" in str(caught.value) and "rows" not in str(caught.value)


def updater_of(student, **changes):
    config = tiny_training(**changes)
    criterion = MaskedDenoisingCriterion(TOKEN_WIDTH, get_objective("v"), config)
    return TrainStep(student.train(), criterion, seed=7, device=CPU)


def test_a_broken_step_stops_all_updates_until_the_host_looks(tokens):
    student = tiny_student()
    train_step = updater_of(student)
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    train_step.step(0, train_step.prepare(0, source))
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    for step, broken in ((1, True), (2, False), (3, True)):
        (part,) = train_step.prepare(step, source)
        if broken:
            part.batch.tokens[2] = math.nan
        train_step.step(step, [part])
    assert train_step.nonfinite_step() == 1
    assert all(weight.equal(before[name]) for name, weight in student.state_dict().items())


def test_a_non_finite_loss_skips_the_update_of_finite_gradients(tokens):
    """Else processes would disagree: they share their gradients, not their losses."""
    student = tiny_student()
    train_step = updater_of(student)
    plain = train_step._criterion.losses

    class Broken:
        def losses(self, model, batch, draw):
            losses = plain(model, batch, draw)
            return losses._replace(loss=losses.loss + math.inf)

    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    parts = train_step.prepare(0, TokenSource([tokens], patch=PATCH, batch_size=4, seed=7))
    train_step._criterion = Broken()
    train_step.step(0, parts)
    assert train_step.nonfinite_step() == 0
    assert all(weight.equal(before[name]) for name, weight in student.state_dict().items())


def test_an_update_is_clipped_adamw_with_decay_on_matrices(tokens):
    student, plain = tiny_student(), tiny_student()
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, max_grad_norm=0.05, weight_decay=0.5)
    train_step = updater_of(student, optimizer=settings)
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    reference = torch.optim.AdamW(
        param_groups(plain, local_parameters(plain), 0.5), lr=1e-2, betas=settings.betas, foreach=True
    )
    for step in range(3):
        (part,) = train_step.prepare(step, source)
        metrics = train_step.step(step, [part])
        torch.manual_seed(derive_seed(7, "dropout", step))
        train_step._criterion.losses(plain.train(), part.batch, part.step_noise).loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), settings.max_grad_norm)
        assert norm > settings.max_grad_norm and metrics["gradient_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
        reference.step()
        reference.zero_grad()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], weight, rtol=1e-4, atol=1e-4)


def test_the_first_update_is_as_large_as_its_learning_rate(tokens):
    """AdamW's first update moves a weight by the rate whatever its gradient: in this warm-up, a tenth of the peak."""
    student = tiny_student()
    before = {name: weight.clone() for name, weight in student.named_parameters()}
    train_step = updater_of(student, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=10, weight_decay=0.0))
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    train_step.step(0, train_step.prepare(0, source))
    moved = max((weight - before[name]).abs().max().item() for name, weight in student.named_parameters())
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_only_matrices_decay():
    student = tiny_student()
    groups = param_groups(student, local_parameters(student), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    decayed, free = (set(map(id, group["params"])) for group in groups)
    names = {id(weight): name for name, weight in student.named_parameters()}
    assert not decayed & free and decayed | free == set(names)
    vectors = {id(weight) for weight in student.mar.parameters(recurse=False)}
    assert vectors <= free
    assert {weight.ndim for weight in student.parameters() if id(weight) in decayed} == {2}
    assert all("norm" in names[key] or names[key].endswith("bias") for key in free - vectors)


def test_a_frozen_parameter_is_neither_optimised_nor_averaged():
    student = tiny_student()
    student.mar.null_text.requires_grad_(False)
    weights = local_parameters(student)
    optimizer, ema = make_optimizer(student, weights, OptimizerConfig()), Ema(weights, 0.9)
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert id(student.mar.null_text) not in held and "mar.null_text" not in ema.state_dict()


def test_the_learning_rate_warms_up_and_falls_to_its_final_share():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine", min_lr_ratio=0.1)
    rates = [learning_rate(step, 105, config) for step in range(105)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and rates[54] == pytest.approx(1.1) and rates[104] == pytest.approx(0.2)
    assert all(later <= earlier for earlier, later in pairwise(rates[3:]))


def test_a_constant_learning_rate_stays():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=0)
    assert {learning_rate(step, 10, config) for step in range(10)} == {2.0}


def test_the_average_follows_its_formula():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    ema = Ema(local_parameters(layer), decay=0.2)
    expected = 1.0
    for step, value in enumerate([3.0, -2.0, 5.0, 7.0]):
        layer.weight.data.fill_(value)
        ema.update(step)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert ema.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-6)


def test_the_averages_decay_warms_up():
    assert [ema_decay(n, 0.999) for n in (0, 8, 90)] == pytest.approx([0.1, 0.5, 0.91])
    assert ema_decay(10**6, 0.999) == 0.999


def test_the_longest_text_of_the_test_data_needs_padding(tokens):
    """Guards the other tests: without padding they would not see a mask that is ignored."""
    source = TokenSource([tokens], patch=PATCH, batch_size=4, seed=7)
    batches = [source.batch(step) for step in range(6)]
    assert any(batch.text.shape[1:] == (LONGEST, TEXT_WIDTH) for batch in batches)
    assert all(not batch.text_mask.all() for batch in batches)
