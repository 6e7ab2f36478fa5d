"""The objectives against formulas written out again in float64 numpy, and their algebra."""

import itertools
import math

import numpy as np
import pytest
import torch

from lightgen_core.diffusion import gaussian
from lightgen_core.diffusion.objectives import OBJECTIVES, get_objective
from lightgen_core.diffusion.schedule import cosine_alpha_bar, schedule_on, spaced_steps

GENERATOR_SEED = 11


def rows(name: str, count: int = 400, values: int = 8):
    """Targets, times, noise and the head's outputs of a few hundred rows; ddpm's first and last step among them."""
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    chosen = get_objective(name)
    uniform = torch.rand(count, generator=generator)
    uniform[:20], uniform[20:40] = 0.0, 1 - 2**-24
    target, noise = (torch.randn(count, values, generator=generator) for _ in range(2))
    output = torch.randn(count, values * (2 if name == "ddpm" else 1), generator=generator)
    if name == "ddpm":
        # Far out in a tail of the likelihood at step 0, fp32 loses the bin's probability to cancellation.
        output[:20, :values] = noise[:20] + 0.1 * output[:20, :values]
    return chosen, target, chosen.sample_timesteps(uniform), noise, output


def ddpm_loss(target, timestep, noise, output):
    """L_simple + L_vlb of Nichol and Dhariwal (2021), Eq. 3 to 17, one row at a time."""
    power = [math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(1001)]
    beta = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(power)]
    bar = [1.0, *np.cumprod([1 - b for b in beta])]  # bar[t + 1] belongs to step t
    small = [b * (1 - bar[t]) / (1 - bar[t + 1]) for t, b in enumerate(beta)]
    small[0] = small[1]
    losses = []
    for x0, t, eps, out in zip(*(tensor.numpy() for tensor in (target, timestep, noise, output)), strict=True):
        prediction, share = out[: len(x0)], (out[len(x0) :] + 1) / 2
        xt = math.sqrt(bar[t + 1]) * x0 + math.sqrt(1 - bar[t + 1]) * eps
        guess = (xt - math.sqrt(1 - bar[t + 1]) * prediction) / math.sqrt(bar[t + 1])
        on_x0 = math.sqrt(bar[t]) * beta[t] / (1 - bar[t + 1])
        on_xt = math.sqrt(1 - beta[t]) * (1 - bar[t]) / (1 - bar[t + 1])
        gap = on_x0 * (x0 - guess)
        log_variance = share * math.log(beta[t]) + (1 - share) * math.log(small[t])
        if t == 0:
            scale, centre = np.exp(-log_variance / 2), x0 - (on_x0 * guess + on_xt * xt)
            upper, lower = (page(scale * (centre + sign / 255)) for sign in (1, -1))
            inside = np.where(x0 < -0.999, upper, np.where(x0 > 0.999, 1 - lower, upper - lower))
            bound = -np.log(np.maximum(inside, 1e-12))
        else:
            ratio = small[t] / np.exp(log_variance)
            bound = 0.5 * (ratio - 1 - np.log(ratio) + gap**2 / np.exp(log_variance))
        losses.append(((prediction - eps) ** 2).mean() + bound.mean() / math.log(2))
    return np.array(losses)


def page(x):
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_ddpm_loss_equals_the_formula():
    chosen, target, timestep, noise, output = rows("ddpm")
    loss = chosen.loss(output, target, timestep, noise)
    formula = ddpm_loss(target.double(), timestep, noise.double(), output.double())
    assert loss.shape == (400,)
    assert np.abs(loss.numpy() / formula - 1).max() <= 1e-5


def test_ddpm_loss_of_a_fixed_row_is_golden():
    chosen = get_objective("ddpm")
    target, noise = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.25]])
    output = torch.tensor([[0.8, 0.0, 0.5, -0.5]])
    losses = [chosen.loss(output, target, torch.tensor([step]), noise).item() for step in (0, 1, 500, 999)]
    assert losses == pytest.approx([0.86048637, 0.13503303, 0.05148196, 36.98338945], rel=1e-5)


def test_the_bound_teaches_the_variance_and_not_the_mean():
    chosen, target, timestep, noise, output = rows("ddpm")
    output.requires_grad_()
    chosen.loss(output, target, timestep, noise).sum().backward()
    mean, variance = output.grad.chunk(2, dim=-1)
    plain = 2 * (output.detach()[:, :8] - noise) / 8
    assert (mean - plain).abs().max() <= 1e-6
    assert (variance.abs().amax(dim=1) > 0).all()


def test_the_bound_vanishes_at_the_true_mean_and_variance():
    chosen, target, timestep, noise, _ = rows("ddpm")
    later = timestep > 0
    smallest = torch.full_like(noise, -1.0)
    bound = chosen.variance_bound(noise, smallest, target, timestep, noise)
    assert bound[later].abs().max() <= 1e-4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_error_is_the_plain_squared_error(name):
    chosen, target, timestep, noise, output = rows(name)
    wanted = chosen.target(target, timestep, noise)
    expected = (output[:, :8] - wanted).square().mean(dim=1)
    if name == "x":
        expected = (((output - wanted) / chosen.alpha_sigma(timestep)[1].clamp(min=0.05)[:, None]) ** 2).mean(dim=1)
    assert torch.equal(chosen.residual(output, target, timestep, noise).square().mean(dim=-1), expected)
    if name != "ddpm":
        assert torch.equal(chosen.loss(output, target, timestep, noise), expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_perfect_prediction_recovers_token_and_noise(name):
    chosen, target, timestep, noise, _ = rows(name)
    noisy, wanted = chosen.add_noise(target, timestep, noise), chosen.target(target, timestep, noise)
    clean, recovered = chosen.to_x0_and_noise(wanted, noisy, timestep)
    alpha, sigma = chosen.alpha_sigma(timestep)
    assert ((clean - target) * alpha[:, None]).abs().max() <= 1e-6
    known = sigma[:, None] if name == "x" else 1.0  # a token without noise tells nothing of it
    assert ((recovered - noise) * known).abs().max() <= 1e-6
    if name != "ddpm":
        assert (clean - target).abs().max() <= 1e-6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_predictions_lie_on_the_path_through_token_and_noise(name):
    chosen, target, timestep, noise, output = rows(name)
    noisy = chosen.add_noise(target, timestep, noise)
    clean, recovered = chosen.to_x0_and_noise(chosen.split_variance(output)[0], noisy, timestep)
    again = chosen.add_noise(clean, timestep, recovered)
    somewhere = slice(20, None) if name == "x" else slice(None)  # at time 0 x may say anything: there is no noise
    assert ((again - noisy).abs() / (1 + noisy.abs()))[somewhere].max() <= 1e-4


def test_the_loss_of_x_is_that_of_the_v_it_implies():
    """Above the smallest sigma, for any prediction of the token."""
    chosen, target, timestep, noise, output = rows("x")
    alpha, sigma = (share[:, None] for share in chosen.alpha_sigma(timestep))
    implied = (alpha * chosen.add_noise(target, timestep, noise) - output) / sigma.clamp(min=1e-9)
    as_v = get_objective("v").loss(implied, target, timestep, noise)
    own = chosen.loss(output, target, timestep, noise)
    above = sigma[:, 0] > 0.05
    assert 300 < above.sum() < 400
    assert ((own - as_v).abs() / as_v)[above].max() <= 1e-4
    assert own.isfinite().all() and (own[~above] <= (output - target).square().mean(dim=1)[~above] * 401).all()


@pytest.mark.parametrize("name", ["v", "x", "flow"])
def test_paths_lead_from_data_to_noise(name):
    chosen = get_objective(name)
    alpha, sigma = chosen.alpha_sigma(torch.tensor([0.0, 0.5, 1.0]))
    middle = 0.5 if name == "flow" else math.sqrt(0.5)
    assert (alpha - torch.tensor([1.0, middle, 0.0])).abs().max() <= 1e-6
    assert (sigma - torch.tensor([0.0, middle, 1.0])).abs().max() <= 1e-6


def test_flow_predicts_the_derivative_of_its_path():
    chosen, target, timestep, noise, _ = rows("flow")
    step = 1e-2
    slope = (chosen.add_noise(target, timestep + step, noise) - chosen.add_noise(target, timestep, noise)) / step
    assert (slope - chosen.target(target, timestep, noise)).abs().max() <= 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_times_spread_evenly_over_their_range(name):
    uniform = (torch.arange(4000) + 0.5) / 4000
    time = get_objective(name).sample_timesteps(uniform)
    if name == "ddpm":
        assert time.bincount().tolist() == [4] * 1000
    else:
        assert torch.equal(time, uniform)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_leading_axes_equal_those_of_flat_rows(name):
    chosen, target, timestep, noise, output = rows(name)
    flat = chosen.loss(output, target, timestep, noise)
    stacked = (tensor.unflatten(0, (4, 100)) for tensor in (output, target, timestep, noise))
    assert torch.equal(chosen.loss(*stacked).flatten(), flat)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_bf16_outputs_are_computed_in_fp32(name):
    chosen, target, timestep, noise, output = rows(name)
    loss = chosen.loss(output.bfloat16(), target, timestep, noise)
    assert torch.equal(loss, chosen.loss(output.bfloat16().float(), target, timestep, noise))


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="choose one of ddpm, v, x, flow"):
        get_objective("epsilon")


def test_the_cosine_schedule_runs_from_data_to_noise():
    power = cosine_alpha_bar()
    assert power[[0, 499, 999]].tolist() == pytest.approx([0.99995871, 0.49384359, 2.42876e-9], rel=1e-4)
    assert (np.diff(power) < 0).all()
    schedule = schedule_on(torch.device("cpu"))
    assert schedule.alpha.square().tolist() == pytest.approx(power.tolist(), rel=1e-6)
    assert schedule.sigma.square().tolist() == pytest.approx((1 - power).tolist(), rel=1e-6)
    assert schedule.log_beta.exp()[-1].item() == pytest.approx(0.999, rel=1e-6)


@pytest.mark.parametrize("count", [2, 7, 50, 100, 999, 1000])
def test_spaced_steps_are_distinct_and_keep_both_ends(count):
    steps = spaced_steps(count)
    assert len(set(steps.tolist())) == count
    assert (steps[0], steps[-1]) == (0, 999)


@pytest.mark.parametrize("count", [0, 1001])
def test_step_counts_out_of_range_are_refused(count):
    with pytest.raises(ValueError, match=f"got {count}"):
        spaced_steps(count)


def test_the_posterior_is_consistent_with_the_forward_process():
    # Averaging q(x_{t-1} | x_t, x_0) over q(x_t | x_0) must give q(x_{t-1} | x_0): mean and variance.
    schedule = schedule_on(torch.device("cpu"))
    mean = schedule.posterior_on_clean + schedule.posterior_on_noisy * schedule.alpha
    variance = schedule.log_posterior.exp() + (schedule.posterior_on_noisy * schedule.sigma) ** 2
    assert (mean[1:] - schedule.alpha[:-1]).abs().max() <= 1e-5
    assert (variance[1:] - schedule.sigma[:-1] ** 2).abs().max() <= 1e-5
    assert (mean[0].item(), schedule.log_posterior[0]) == (1.0, schedule.log_posterior[1])


def test_gaussian_divergence_equals_torchs():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance, other_mean, other_log_variance = torch.randn(4, 50, generator=generator)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(other_mean, (other_log_variance / 2).exp()),
    )
    assert (gaussian.kl(mean, log_variance, other_mean, other_log_variance) - expected).abs().max() <= 1e-5


def test_bins_of_a_pixel_sum_to_one():
    pixels = torch.arange(256) / 127.5 - 1
    mean, log_variance = torch.full((256,), 0.3), torch.full((256,), -4.0)
    total = gaussian.discretised_log_likelihood(pixels, mean, log_variance).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-5)
