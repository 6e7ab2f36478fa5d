"""DPO: its loss and gradient, the guards of the winner, and runs that learn, resume and stop."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file

from lightgen_core.config import DpoConfig, DpoOptimizerConfig, MaskConfig
from lightgen_core.data.batches import PairSource
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.train.dpo import DpoCriterion, repeat_for_pairs, sdpo_scale, winner_error_ema
from lightgen_core.train.preference_losses import PairErrors, dpo
from lightgen_core.train.step_noise import step_generator
from tests.factories.tiny_student import PATCH, TOKEN_WIDTH, tiny_student, train, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.parquet", rows=6, images=("winner", "loser"))


def settings(**changes):
    values = {
        "steps": 6,
        "batch_size": 3,
        "optimizer": DpoOptimizerConfig(learning_rate=3e-3, warmup_steps=0, weight_decay=0.0),
        "noise_samples_per_token": 2,
        "mask": MaskConfig(distribution="uniform", min_ratio=0.0),
        "precision": "fp32",
        "log_every": 1,
        "checkpoint_every": 3,
        "beta": 20.0,
        "displacement_guard": "none",
        "tolerance": 1e9,
    }
    return DpoConfig(**(values | changes))


def warm_student(name="v"):
    """A student that has moved: with a fresh head's zeros gradients would not reach all of it."""
    student, generator = tiny_student(name), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.15 * torch.randn(weight.shape, generator=generator)
    return student


def run(pairs, folder, name="v", on_log=None, **changes):
    config, policy = settings(**changes), warm_student(name)
    source = PairSource([pairs], patch=PATCH, batch_size=config.batch_size, seed=7)
    reference = copy.deepcopy(policy)
    result = train(policy, source, config, reference=reference, seed=7, folder=folder, device=CPU, on_log=on_log)
    return policy, reference, result


def test_the_loss_equals_its_formula_at_a_point():
    """beta 4, l_policy 0.30 and 0.50, l_ref 0.40 and 0.45: -log sigmoid(-2 * (-0.20 + 0.05)) = log(1 + exp(-0.3))."""
    values = (torch.tensor([value]) for value in (0.30, 0.50, 0.40, 0.45))
    pairs = PairErrors(*values)
    assert dpo(pairs, beta=4.0).item() == pytest.approx(math.log(1 + math.exp(-0.3)), rel=1e-6)
    assert pairs.margin.item() == pytest.approx(0.15) and pairs.winner_delta.item() == pytest.approx(-0.10)
    assert pairs.loser_delta.item() == pytest.approx(0.05)


def test_a_policy_equal_to_its_reference_has_loss_log_two():
    errors = torch.rand(5)
    loss = dpo(PairErrors(errors, errors + 1, errors, errors + 1), beta=5000.0)
    torch.testing.assert_close(loss, torch.full((5,), math.log(2)))


def test_a_large_margin_neither_overflows_nor_pushes():
    winner, loser = torch.tensor([0.0, 5.0], requires_grad=True), torch.tensor([5.0, 0.0])
    loss = dpo(PairErrors(winner, loser, torch.zeros(2), torch.zeros(2)), beta=5000.0)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 12500.0] and winner.grad.tolist() == [0.0, 2500.0]


def test_the_gradient_lowers_the_winners_raises_the_losers_error():
    """At equality both have slope beta / 4."""
    winner, loser = (torch.full((3,), 0.4, requires_grad=True) for _ in range(2))
    dpo(PairErrors(winner, loser, torch.full((3,), 0.4), torch.full((3,), 0.4)), beta=8.0).sum().backward()
    assert winner.grad.tolist() == [2.0] * 3 and loser.grad.tolist() == [-2.0] * 3


def residuals(seed, alignment):
    """Residuals of winner and loser, (draws 2, pairs 4, tokens 3, values 5), the loser's partly the winner's."""
    generator = torch.Generator().manual_seed(seed)
    winner, other = (torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return winner, alignment * winner + other


@pytest.mark.parametrize("alignment", [-2.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_the_factor_keeps_the_winners_error_from_rising(alignment, mu):
    """The outputs move by -step * (gA - factor * gB); the winner's error then falls by mu |gA|^2 step or more."""
    winner, loser = residuals(0, alignment)
    factor = sdpo_scale(winner, loser, mu)
    size = winner[0, 0].numel() * 2
    own, others = 2 * winner / size, 2 * loser / size
    step = 1e-6

    def slope(chosen):
        moved = winner - step * (own - chosen[None, :, None, None] * others)
        return (moved.square().mean(dim=(0, 2, 3)) - winner.square().mean(dim=(0, 2, 3))) / step

    assert ((factor >= 0) & (factor <= 1)).all()
    promised = mu * own.square().sum(dim=(0, 2, 3))
    assert (slope(factor) <= -promised + 1e-5).all()
    unguarded = slope(torch.ones(4, dtype=torch.float64))
    if alignment == 3.0:
        assert (unguarded > 0.1).all() and (factor < 0.5).all()
    # Never weaker than needed: where the factor is cut, the promise is just kept.
    cut = factor < 1
    torch.testing.assert_close(slope(factor)[cut], -promised[cut], rtol=0, atol=1e-5)


def test_the_factor_is_one_where_the_gradients_disagree():
    winner, loser = residuals(1, -2.0)
    assert sdpo_scale(winner, loser, 0.0).tolist() == [1.0] * 4
    assert sdpo_scale(winner, torch.zeros_like(winner), 0.0).tolist() == [1.0] * 4


def test_a_perfect_winner_is_not_moved_for_the_losers_sake():
    winner, loser = residuals(1, 1.0)
    assert not sdpo_scale(winner * 0, loser, 0.0).isnan().any()
    assert sdpo_scale(winner * 1e-3, winner, 0.0).tolist() == pytest.approx([1e-3] * 4)


def losses_of(model, pairs, **changes):
    config = settings(**changes)
    source = PairSource([pairs], patch=PATCH, batch_size=config.batch_size, seed=7)
    reference = copy.deepcopy(model).eval()
    criterion = DpoCriterion(reference, TOKEN_WIDTH, get_objective("v"), config)
    batch = source.batch(0).to(CPU)
    draw = criterion.sample_noise(batch.grid, (0, len(batch.ids)), step_generator(7, 0))
    return criterion.losses(model.eval(), batch, draw), draw


def test_winner_and_loser_share_mask_time_and_noise(pairs):
    draw = repeat_for_pairs(losses_of(warm_student(), pairs)[1])
    for name in ("mask", "masked_index", "text_dropped"):
        first, second = getattr(draw, name).chunk(2)
        assert len(first) == 3 and first.equal(second)
    for name in ("timestep", "noise"):
        first, second = getattr(draw, name).chunk(2, dim=1)
        assert first.equal(second)
    assert not draw.text_dropped.any()


@pytest.mark.parametrize("guard", ["none", "sdpo"])
def test_policy_and_reference_of_equal_weights_have_no_delta(pairs, guard):
    losses, _ = losses_of(warm_student(), pairs, displacement_guard=guard)
    torch.testing.assert_close(losses.loss, torch.full((3,), math.log(2)))
    for name in ("margin", "winner_delta", "loser_delta"):
        assert losses.metrics[name].abs().max() == 0


def gradient(model, pairs, **changes):
    model.zero_grad()
    losses_of(model, pairs, **changes)[0].loss.mean().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def test_the_guards_change_the_gradient_and_not_the_preference(pairs):
    model = warm_student()
    guards = ("none", "sdpo", "anchor", "both")
    plain, sdpo, anchored, both = (gradient(model, pairs, displacement_guard=guard, sdpo_mu=0.9) for guard in guards)
    assert not plain.equal(sdpo) and not plain.equal(anchored)
    assert gradient(model, pairs, displacement_guard="anchor", anchor_weight=0.0).equal(plain)
    # The anchor adds the same pull, whatever happens to the loser.
    torch.testing.assert_close(anchored - plain, both - sdpo, rtol=1e-3, atol=1e-5)
    metrics = [losses_of(model, pairs, displacement_guard=guard, sdpo_mu=0.9)[0].metrics for guard in guards]
    assert (metrics[1]["loser_factor"] < 1).any() and (metrics[0]["loser_factor"] == 1).all()
    for guarded in metrics[1:]:
        assert guarded["preference_loss"].equal(metrics[0]["preference_loss"])


def test_tuning_learns_the_preference(pairs, tmp_path):
    _, _, result = run(pairs, tmp_path, steps=120, log_every=20, checkpoint_every=120)
    last = result.rows[-1]
    assert last["preference_loss"] < 0.5 < result.rows[0]["preference_loss"] and last["accuracy"] > 0.9
    assert last["margin"] == pytest.approx(last["loser_delta"] - last["winner_delta"], rel=1e-4)


def test_the_anchor_keeps_the_winner_likely(pairs, tmp_path):
    """The plain loss lets the winner's error rise here. (So does sdpo, within 1 %, with five seeds of six.)"""
    none, anchor = (
        run(pairs, tmp_path / guard, steps=120, log_every=20, checkpoint_every=120, displacement_guard=guard)[2].rows[
            -1
        ]
        for guard in ("none", "anchor")
    )
    assert none["winner_delta"] > 0.5 and anchor["winner_delta"] < -0.5


def test_the_reference_stays_and_neither_model_drops_out(pairs, tmp_path):
    _, reference, result = run(pairs, tmp_path)
    assert result.rows[0]["winner_delta"] == result.rows[0]["loser_delta"] == 0.0
    before = warm_student().state_dict()
    assert all(weight.equal(before[name]) for name, weight in reference.state_dict().items())


@pytest.mark.parametrize("name", ["ddpm", "v", "flow"])
def test_six_tuning_steps_equal_three_saved_and_three_more(pairs, tmp_path, name):
    def interrupt(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    policy, _, whole = run(pairs, tmp_path / "whole", name, displacement_guard="both")
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path / "parts", name, displacement_guard="both", on_log=interrupt)
    resumed, _, parts = run(pairs, tmp_path / "parts", name, displacement_guard="both")
    assert parts.rows == whole.rows and len(whole.rows) == 6
    assert all(weight.equal(resumed.state_dict()[key]) for key, weight in policy.state_dict().items())
    assert all(parts.ema[key].equal(average) for key, average in whole.ema.items())


def rows_of(*deltas):
    return [{"winner_delta": delta, "reference_error": 0.5} for delta in deltas]


def test_the_rise_is_an_average_over_the_log():
    assert winner_error_ema(rows_of(0.1), horizon=1) == pytest.approx(0.2)
    assert winner_error_ema(rows_of(0.1, 0.0, 0.2), horizon=3) == pytest.approx(0.5 * 0.4 + 0.125 * 0.2)
    assert winner_error_ema([], horizon=3) == 0.0


def test_weights_beyond_the_tolerance_are_never_brought_back(pairs, tmp_path, monkeypatch):
    # The average over five rows passes the tolerance at the fourth: the checkpoint of step 3 is beyond it already.
    rises = iter([0.0, 0.0, 0.2, 0.4, 0.4])

    def made_up(self, model, batch, step_noise, losses=DpoCriterion.losses):
        output = losses(self, model, batch, step_noise)
        delta = next(rises) * output.metrics["reference_error"]
        return output._replace(metrics=output.metrics | {"winner_delta": delta})

    monkeypatch.setattr(DpoCriterion, "losses", made_up)
    _, _, result = run(pairs, tmp_path, steps=6, checkpoint_every=1, tolerance=0.15, tolerance_window=5)
    assert len(result.rows) == 4 and result.stopped
    assert result.step == 2 and not (tmp_path / "step-00000003").exists()


@pytest.mark.parametrize(("first_bad", "kept"), [(2, 0), (5, 3)])
def test_a_rise_above_the_tolerance_restores_the_last_checkpoint(pairs, tmp_path, monkeypatch, first_bad, kept):
    before, _, _ = run(pairs, tmp_path / "before", steps=6)
    monkeypatch.setattr("lightgen_core.train.dpo.winner_error_ema", lambda rows, horizon: float(len(rows) >= first_bad))
    policy, _, result = run(pairs, tmp_path / "stopped", steps=6, tolerance=0.1)
    assert result.step == kept and "rose 100.0% above the reference's; the tolerance is 10.0%" in result.stopped
    assert [row["step"] for row in result.rows] == list(range(1, first_bad + 1))
    monkeypatch.undo()
    saved = tmp_path / "before" / f"step-{kept:08d}" / "model.safetensors"
    expected = load_file(saved) if kept else warm_student().state_dict()
    for name, weight in expected.items():
        assert policy.state_dict()[name].equal(weight)
    assert any(not weight.equal(before.state_dict()[name]) for name, weight in policy.state_dict().items())
