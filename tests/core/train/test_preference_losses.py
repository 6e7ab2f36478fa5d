"""Objectives of preference tuning against their formulas in float64, their gradients, and their independence."""

import math

import numpy as np
import pytest
import torch

from lightgen_core.train.preference_losses import OF_ERRORS, PairErrors, mean_square, nft

PAIRS = 7
BETA = 3.0


def errors_of(seed: int = 0) -> list[torch.Tensor]:
    """Errors of winner and loser under policy and reference, (pairs,) float64 with gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(PAIRS, generator=generator, dtype=torch.float64) + 0.1).requires_grad_() for _ in range(4)]


def residuals_of(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, PAIRS, 3, 4, generator=generator, dtype=torch.float64) for _ in range(4)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def odds(x: float) -> float:
    return x / (math.exp(x) - 1)


# Of the errors of winner and loser under policy, w and b, and reference, rw and rb.
FORMULAS = {
    "dpo": lambda w, b, rw, rb: -math.log(sigmoid(-BETA / 2 * ((w - b) - (rw - rb)))),
    "ipo": lambda w, b, rw, rb: (BETA * ((rw - w) / 2 - (rb - b) / 2) - 1 / 2) ** 2,
    "kto": lambda w, b, rw, rb: 1 - sigmoid(BETA * (rw - w) / 2) + 1 - sigmoid(-BETA * (rb - b) / 2),
    "mapo": lambda w, b, rw, rb: w - math.log(sigmoid(BETA * (odds(w) - odds(b)))),
    "sft": lambda w, b, rw, rb: w,
}


@pytest.mark.parametrize("name", OF_ERRORS)
def test_losses_equal_their_formulas(name):
    errors = errors_of()
    found = OF_ERRORS[name](PairErrors(*errors), BETA)
    expected = [FORMULAS[name](*values) for values in zip(*(each.tolist() for each in errors), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", OF_ERRORS)
def test_gradients_lower_the_winner_and_raise_the_loser(name):
    errors = errors_of()
    OF_ERRORS[name](PairErrors(*errors), BETA).sum().backward()
    winner, loser = errors[0].grad, errors[1].grad
    if name == "ipo":  # beyond its margin it pulls back
        margin = PairErrors(*errors).margin.detach()
        assert torch.equal(winner > 0, margin < 1 / BETA)
        torch.testing.assert_close(winner, -loser)
        return
    assert (winner > 0).all()
    assert loser is None or (loser < 0).all()
    assert (loser is None) == (name == "sft"), "the control leaves the loser alone"
    assert (errors[2].grad is None) == (name in ("sft", "mapo")), "these have no reference"


@pytest.mark.parametrize("name", OF_ERRORS)
def test_losses_are_finite_at_extremes(name):
    values = torch.tensor([0.0, 1e-12, 1e-3, 10.0, 80.0])
    errors = [each.flatten().clone().requires_grad_() for each in torch.meshgrid(values, values, indexing="ij")]
    zeros = torch.zeros(len(values) ** 2)
    loss = OF_ERRORS[name](PairErrors(*errors, zeros, zeros), 5.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert errors[0].grad.isfinite().all()


def test_nft_equals_its_formula():
    """Of predictions, not residuals: v+ and v- are mixed before the target is taken off."""
    contrast, target = 0.7, torch.randn(2, PAIRS, 3, 4, dtype=torch.float64)
    winner, loser, old_winner, old_loser = residuals_of()
    plus = (1 - contrast) * (old_winner + target) + contrast * (winner + target)
    minus = (1 + contrast) * (old_loser + target) - contrast * (loser + target)
    expected = 0
    for mixed, old in ((plus, old_winner), (minus, old_loser)):
        expected = expected + ((mixed - target) ** 2).numpy().mean((0, 2, 3)) / (old**2).numpy().mean((0, 2, 3))
    found = nft(winner, loser, old_winner, old_loser, contrast)
    np.testing.assert_allclose(found.numpy(), expected / contrast, rtol=1e-12)


def test_nft_starts_at_two_over_contrast_and_points_both_ways():
    winner, loser, _, _ = residuals_of()
    policy = winner.clone().requires_grad_(), loser.clone().requires_grad_()
    loss = nft(*policy, winner, loser, 0.5)
    torch.testing.assert_close(loss, torch.full((PAIRS,), 4.0, dtype=torch.float64))
    loss.sum().backward()
    toward, away = ((each.grad * each.detach()).sum((0, 2, 3)) for each in policy)
    assert (toward > 0).all(), "a step lowers the winner's error"
    assert (away < 0).all(), "and raises the loser's"


def test_nft_of_a_perfect_reference_is_finite():
    zeros = torch.zeros(2, PAIRS, 3, 4)
    assert nft(zeros + 0.1, zeros + 0.1, zeros, zeros, 1.0).isfinite().all()


@pytest.mark.parametrize("name", [*OF_ERRORS, "nft"])
def test_a_pair_does_not_depend_on_the_others(name):
    """So neither batch size nor number of processes changes a gradient."""
    if name == "nft":
        residuals = residuals_of()
        whole = nft(*residuals, 1.0)
        alone = torch.cat([nft(*(each[:, i : i + 1] for each in residuals), 1.0) for i in range(PAIRS)])
    else:
        errors = errors_of()
        whole = OF_ERRORS[name](PairErrors(*errors), BETA)
        alone = torch.cat([OF_ERRORS[name](PairErrors(*(e[i : i + 1] for e in errors)), BETA) for i in range(PAIRS)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=0)


def test_error_is_the_mean_square_of_a_pair():
    residuals = residuals_of()[0]
    expected = (residuals.numpy() ** 2).mean((0, 2, 3))
    np.testing.assert_allclose(mean_square(residuals).numpy(), expected, rtol=1e-12)
