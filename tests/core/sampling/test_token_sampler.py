"""Sampling: schedules, guidance, seeds, known tokens, and exact heads that give the data's distribution."""

import math

import pytest
import torch
from pydantic import ValidationError

from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.diffusion.schedule import schedule_on
from lightgen_core.sampling.head_samplers import (
    IncompatibleSamplerError,
    head_steps,
    head_steps_for,
    noises_per_token,
    sample_head,
    sampling_schedule,
)
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import cosine_unmask_schedule, guidance_at, sample
from tests.factories.tiny_sampling import SAMPLERS, captions, head_tokens, settings, trained_looking
from tests.factories.tiny_student import GRID, TEXT_WIDTH, TOKEN_WIDTH, TOKENS, tiny_student


@pytest.mark.parametrize(("hidden", "iterations"), [(1, 1), (9, 1), (9, 4), (9, 9), (9, 64), (256, 64), (1024, 64)])
def test_every_iteration_reveals_something_and_all_is_revealed(hidden, iterations):
    counts = cosine_unmask_schedule(hidden, iterations)
    assert len(counts) == min(hidden, iterations) and sum(counts) == hidden and min(counts) >= 1


def test_reveals_follow_the_cosine():
    left = 256 - torch.tensor(cosine_unmask_schedule(256, 64)).cumsum(0)
    # Before iteration 14 the cosine reveals less than one token an iteration, so the count runs ahead of it.
    for done in (16, 32, 48, 60):
        assert left[done - 1] == math.floor(256 * math.cos(math.pi / 2 * done / 64))


def test_an_empty_mask_needs_no_iteration():
    assert cosine_unmask_schedule(0, 64) == []


def test_guidance_grows_with_the_revealed_share():
    linear, constant = settings(guidance_schedule="linear"), settings(guidance_schedule="constant")
    assert [guidance_at(share, linear) for share in (0.0, 0.25, 1.0)] == [1.0, 1.5, 3.0]
    assert guidance_at(0.25, constant) == 3.0


def test_guidance_acts_in_its_interval_only():
    config = settings(guidance_schedule="interval", guidance_interval=(0.2, 0.7))
    assert [guidance_at(share, config) for share in (0.1, 0.2, 0.5, 0.7, 0.8)] == [1.0, 3.0, 3.0, 3.0, 1.0]


def test_head_steps_fall_with_the_known_share():
    falling, constant = settings(head_steps=12, head_steps_last=4), settings(head_steps=12)
    assert [head_steps_for(known, falling) for known in (0.0, 0.5, 1.0)] == [12, 8, 4]
    assert [head_steps_for(known, constant) for known in (0.0, 0.5, 1.0)] == [12, 12, 12]
    early = settings(head_steps=12, head_steps_last=4, head_steps_last_at=0.5)
    assert [head_steps_for(known, early) for known in (0.0, 0.25, 0.5, 0.75, 1.0)] == [12, 8, 4, 4, 4]
    first_token = settings(head_steps=2, head_steps_last=1, head_steps_last_at=0.2)
    assert [head_steps_for(known / 9, first_token) for known in range(9)] == [2] + 8 * [1]


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name, sampler):
    student, (text, mask) = trained_looking(name), captions(2, 5, 3)
    config = settings(sampler, guidance_schedule="linear")
    together = sample(student, text, mask, GRID, config, seeds=[11, 12, 13])
    alone = sample(student, text[2:, :3], mask[2:, :3], GRID, config, seeds=[13])
    turned = sample(student, text.flip(0), mask.flip(0), GRID, config, seeds=[13, 12, 11]).flip(0)
    assert together.shape == (3, TOKENS, TOKEN_WIDTH)
    scale = together.abs().max().item()
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(together, turned, rtol=0, atol=1e-5 * scale)


def test_equal_seeds_give_equal_bits_and_others_other_images():
    student, (text, mask) = trained_looking("v"), captions(3, 3)
    first = sample(student, text, mask, GRID, settings(), seeds=[1, 1])
    assert sample(student, text, mask, GRID, settings(), seeds=[1, 1]).equal(first)
    same_text = text[:1].expand(2, -1, -1)
    one, two = sample(student, same_text, None, GRID, settings(), seeds=[1, 2])
    assert (one - two).abs().mean() > 0.1


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_bf16_samples_are_near_fp32_ones_and_returned_in_fp32(name, sampler):
    text, mask = captions(4, 2)
    full, half = (
        sample(trained_looking(name), text, mask, GRID, settings(sampler, precision=precision), seeds=[1, 2])
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32 and not half.equal(full)
    assert (half - full).square().mean().sqrt() < 0.05 * full.std()


def test_known_tokens_are_kept_to_the_bit_and_condition_the_rest():
    student, (text, mask) = trained_looking("v"), captions(3, 4)
    keep = torch.arange(TOKENS) % 2 == 0
    known = torch.randn(2, TOKENS, TOKEN_WIDTH, generator=torch.Generator().manual_seed(3))
    before = known.clone()
    painted = sample(student, text, mask, GRID, settings(), seeds=[1, 2], known=known, keep=keep)
    assert painted[:, keep].equal(known[:, keep]) and known.equal(before)
    other = sample(student, text, mask, GRID, settings(), seeds=[1, 2], known=-known, keep=keep)
    assert (painted[:, ~keep] - other[:, ~keep]).abs().mean() > 1e-3
    # What lies under the mask must not matter.
    under = known.masked_fill(~keep[:, None], math.nan)
    again = sample(student, text, mask, GRID, settings(), seeds=[1, 2], known=under, keep=keep)
    assert again.equal(painted)


def test_an_image_that_is_all_known_comes_back():
    student, (text, mask) = trained_looking("v"), captions(3)
    known = torch.randn(1, TOKENS, TOKEN_WIDTH)
    keep = torch.ones(TOKENS, dtype=torch.bool)
    assert sample(student, text, mask, GRID, settings(), [1], known=known, keep=keep).equal(known)


@pytest.mark.parametrize(("guidance", "reads"), [(1.0, 4), (3.0, 8)])
def test_text_is_aligned_once_and_null_text_read_for_guidance(monkeypatch, guidance, reads):
    """Without guidance the null text is never read."""
    student, (text, mask), calls = trained_looking("v"), captions(3), []
    for name in ("align", "text_kv", "encode_decode", "cross_attend"):
        method = getattr(student.mar, name)
        monkeypatch.setattr(
            student.mar, name, lambda *a, _name=name, _call=method, **k: (calls.append(_name), _call(*a, **k))[1]
        )
    sample(student, text, mask, GRID, settings(guidance_scale=guidance), seeds=[1])
    assert (calls.count("align"), calls.count("encode_decode"), calls.count("cross_attend")) == (1, 4, reads)
    assert calls.count("text_kv") == reads // 4


def test_outside_its_interval_guidance_costs_nothing(monkeypatch):
    """Nine tokens in nine iterations, guided while 3 to 5 ninths are known after them."""
    student, (text, mask), branches = trained_looking("v"), captions(3), []
    read, denoise = student.mar.cross_attend, student.head.forward_embedded
    monkeypatch.setattr(student.mar, "cross_attend", lambda *a, **k: (branches.append("text"), read(*a, **k))[1])
    monkeypatch.setattr(student.head, "forward_embedded", lambda *a: (branches.append(len(a[2])), denoise(*a))[1])
    inside = settings(iterations=9, head_steps=1, guidance_schedule="interval", guidance_interval=(0.3, 0.6))
    sample(student, text, mask, GRID, inside, seeds=[1])
    alone, both = ["text", 1], ["text", "text", 2]
    assert branches == alone * 2 + both * 3 + alone * 4


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_the_head_runs_as_often_as_the_falling_steps_say(monkeypatch, name, sampler):
    student, (text, mask), calls = trained_looking(name), captions(3), []
    denoise = student.head.forward_embedded
    monkeypatch.setattr(student.head, "forward_embedded", lambda *a: (calls.append(1), denoise(*a))[1])
    falling = settings(sampler, iterations=9, head_steps=10, head_steps_last=2)
    assert sample(student, text, mask, GRID, falling, seeds=[1]).isfinite().all()
    # round(10 - 8 known / 9) for 0 to 8 known tokens
    assert len(calls) == sum([10, 9, 8, 7, 6, 6, 5, 4, 3])


def test_guidance_moves_away_from_the_null_text():
    """At guidance g the prediction is null + g (text - null); with text equal to null guidance changes nothing."""
    student = trained_looking("v")
    null_states = torch.zeros(1, 1, TEXT_WIDTH)
    plain = sample(student, null_states, None, GRID, settings(guidance_scale=1.0), seeds=[1])
    guided = sample(student, null_states, None, GRID, settings(guidance_scale=3.0), seeds=[1])
    assert (plain - guided).abs().max() > 1e-2
    student.mar.align = lambda text, mask: student.mar.null_states(len(text))
    plain = sample(student, null_states, None, GRID, settings(guidance_scale=1.0), seeds=[1])
    guided = sample(student, null_states, None, GRID, settings(guidance_scale=3.0), seeds=[1])
    torch.testing.assert_close(plain, guided, rtol=0, atol=1e-5)


@torch.no_grad()
def test_guidance_extends_the_line_from_null_text_to_caption():
    """null + 3 (text - null): with one deterministic step a token is a constant times the prediction."""
    head, config = trained_looking("v").head, settings(head_steps=1)
    states, noises = torch.randn(2, 4, 16), torch.randn(1, 4, TOKEN_WIDTH)
    loop = TokenSampler(head)
    text, null = (head_tokens(loop, branch[None], noises, config, 1, 1.0) for branch in states)
    guided = head_tokens(loop, states, noises, config, 1, 3.0)
    torch.testing.assert_close(guided, 3 * text - 2 * null, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_learned_variance_is_the_captions():
    """At guidance 1 two branches draw what the caption alone does, noise included."""
    head, config = trained_looking("ddpm").head, settings("ddpm")
    states, noises = torch.randn(2, 4, 16), torch.randn(5, 4, TOKEN_WIDTH)
    both, alone = (
        head_tokens(TokenSampler(head), branches, noises, config, 5, 1.0) for branches in (states, states[:1])
    )
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-4)


def test_sampling_runs_without_dropout_and_leaves_the_mode():
    student, (text, mask) = trained_looking("v").train(), captions(3)
    first = sample(student, text, mask, GRID, settings(), seeds=[1])
    assert student.training
    assert sample(student.eval(), text, mask, GRID, settings(), seeds=[1]).equal(first) and not student.training


def draw_exactly(goal, sampler, steps, clean_at, rows, **changes):
    """Tokens of two values from a head that knows E[clean | noisy]: clean_at(noisy, alpha, sigma)."""
    along, config = head_steps(goal.name, sampler, steps), settings(sampler, **changes)

    def denoiser(noisy, index):
        timestep = torch.tensor(along[index].timestep)
        alpha, sigma = goal.alpha_sigma(timestep)
        clean = clean_at(noisy, alpha, sigma)
        prediction = goal.target(clean, timestep, (noisy - alpha * clean) / sigma)
        # Where its variance is learned, the smallest of the range is right at many steps.
        return torch.cat([prediction, -torch.ones_like(noisy)], dim=-1) if goal.name == "ddpm" else prediction

    noises = torch.randn(noises_per_token(sampler, steps), rows, 2, generator=torch.Generator().manual_seed(4))
    return sample_head(denoiser, goal, config, along, noises)


def normal_data(noisy, alpha, sigma, deviation=0.5):
    """The posterior mean of tokens drawn from N(0, deviation^2): it is linear."""
    return noisy * alpha * deviation**2 / ((alpha * deviation) ** 2 + sigma**2)


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_an_exact_head_gives_the_datas_distribution(name, sampler):
    tokens = draw_exactly(get_objective(name), sampler, 200, normal_data, 2000)
    assert tokens.std().item() == pytest.approx(0.5, rel=0.05) and abs(tokens.mean().item()) < 0.03


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
@pytest.mark.parametrize("steps", [2, 7, 25])
def test_an_exact_head_reaches_a_single_token_in_any_steps(name, sampler, steps):
    token = torch.tensor([0.7, -1.3])
    tokens = draw_exactly(get_objective(name), sampler, steps, lambda noisy, *_: token.expand_as(noisy), 3)
    torch.testing.assert_close(tokens, token.expand_as(tokens), rtol=0, atol=2e-2)


def test_all_ddpm_steps_have_the_coefficients_of_training():
    schedule, steps = schedule_on(torch.device("cpu")), sampling_schedule(get_objective("ddpm"), 1000)[::-1]
    weights = torch.tensor([level.posterior_weights() for level in steps])
    variances = torch.tensor([level.log_variances() for level in steps[1:]])
    assert [level.timestep for level in steps] == list(range(1000))
    torch.testing.assert_close(weights[:, 0], schedule.posterior_on_clean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights[:, 1], schedule.posterior_on_noisy, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(variances[:, 0], schedule.log_posterior[1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variances[:, 1], schedule.log_beta[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "ddpm"), ("v", "ddim")])
def test_temperature_zero_has_no_chance_but_the_ancestral_start(name, sampler):
    assert draw_exactly(get_objective(name), sampler, 50, normal_data, 500, temperature=0.0).std() < 0.05


@pytest.mark.parametrize(("name", "sampler"), [("ddpm", "euler"), ("v", "euler"), ("flow", "ddpm"), ("flow", "ddim")])
def test_a_sampler_that_does_not_fit_the_head_is_refused(name, sampler):
    text, mask = captions(3)
    with pytest.raises(ValueError, match=f"{sampler!r} does not fit a head trained with objective {name!r}"):
        sample(tiny_student(name), text, mask, GRID, settings(sampler), seeds=[1])


@pytest.mark.parametrize("steps", [{"head_steps": 1}, {"head_steps_last": 1}, {"head_steps": 1001}])
def test_steps_that_a_ddpm_head_does_not_have_are_refused(steps):
    text, mask = captions(3)
    with pytest.raises(IncompatibleSamplerError, match="takes 2 to 1000 sampling steps"):
        sample(tiny_student("ddpm"), text, mask, GRID, settings(**steps), seeds=[1])


def test_steps_that_rise_and_intervals_that_fall_are_refused():
    with pytest.raises(ValidationError, match="head_steps_last 9 exceeds head_steps 5; lower it"):
        settings(head_steps_last=9)
    with pytest.raises(ValidationError, match="expected the smaller share first"):
        settings(guidance_interval=(0.8, 0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 2]}, "2 seeds for 1 texts"),
        ({"known": torch.zeros(1, TOKENS, TOKEN_WIDTH)}, "belong together"),
        ({"known": torch.zeros(1, 4, TOKEN_WIDTH), "keep": torch.ones(4, dtype=torch.bool)}, "one mask for all images"),
    ],
)
def test_inputs_that_do_not_fit_each_other_are_refused(changes, message):
    text, mask = captions(3)
    with pytest.raises(ValueError, match=message):
        sample(tiny_student(), text, mask, GRID, settings(), **({"seeds": [1]} | changes))
