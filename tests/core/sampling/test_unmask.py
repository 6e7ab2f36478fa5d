"""Iterations: what is computed before them changes no bit, and the null text's states are cached between them."""

import pytest
import torch

from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.blocks import few_scores_by_products
from lightgen_core.sampling import noise
from lightgen_core.sampling.head_samplers import (
    IncompatibleSamplerError,
    head_steps,
    head_steps_for,
    noises_per_token,
    sample_head,
)
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import cosine_unmask_schedule, guidance_at, sample
from tests.factories.tiny_sampling import SAMPLERS, captions, settings, trained_looking
from tests.factories.tiny_student import GRID, TOKEN_WIDTH

SEEDS = [11, 12]
LATER = {"guidance_schedule": "interval", "guidance_interval": (0.2, 1.0)}


@torch.no_grad()
@few_scores_by_products()
def sampled_plainly(student, text, mask, grid, config):
    """Each iteration samples its noises, interpolates positions and embeds its times."""
    mar, head, goal = student.mar, student.head, get_objective(student.head.config.objective)
    length = left = grid[0] * grid[1]
    tokens, masked = torch.zeros(len(text), length, TOKEN_WIDTH), torch.ones(len(text), length, dtype=torch.bool)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    order = torch.stack([torch.randperm(length, generator=generator) for generator in generators])
    branches = [(mar.align(text, mask), mask), (mar.null_states(len(text)), None)]
    for count in cosine_unmask_schedule(length, config.iterations):
        chosen = order[:, length - left :][:, :count]
        steps, guidance = head_steps_for(1 - left / length, config), guidance_at(1 - (left - count) / length, config)
        states = mar.encode_decode(tokens, masked, grid, left)
        attended = [mar.cross_attend(states, *branch, grid, chosen).flatten(0, 1) for branch in branches]
        along = head_steps(goal.name, config.head_sampler, steps)
        times = head.embed_time(torch.tensor([step.timestep for step in along]))
        embedded = head.condition(torch.stack(attended if guidance > 1 else attended[:1]))

        def denoiser(noisy, index, times=times, embedded=embedded, guidance=guidance):
            outputs = head.forward_embedded(noisy, times[index], embedded)
            (with_text, variance), (without, _) = (goal.split_variance(outputs[branch]) for branch in (0, -1))
            guided = without + guidance * (with_text - without) if len(outputs) > 1 else with_text
            return guided if variance is None else torch.cat([guided, variance], dim=-1)

        shape = noises_per_token(config.head_sampler, steps), count, TOKEN_WIDTH
        noises = torch.stack([torch.randn(shape, generator=generator) for generator in generators], dim=1)
        drawn = sample_head(denoiser, goal, config, along, noises.flatten(1, 2)).unflatten(0, (-1, count))
        tokens.scatter_(1, chosen[..., None].expand_as(drawn), drawn)
        masked.scatter_(1, chosen, False)
        left -= count
    return tokens


@pytest.mark.parametrize("grid", [GRID, (2, 8)])
@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_the_sampler_gives_the_bits_of_a_plain_loop(name, sampler, grid):
    student, (text, mask) = trained_looking(name).eval(), captions(2, 5)
    interval = {"guidance_schedule": "interval", "guidance_interval": (0.2, 0.7)}
    config = settings(sampler, iterations=7, head_steps_last=2, **interval)
    assert sample(student, text, mask, grid, config, SEEDS).equal(sampled_plainly(student, text, mask, grid, config))


@pytest.mark.parametrize(
    ("every", "schedule", "runs"),
    [(1, {}, [0, 1, 2, 3, 4]), (2, {}, [0, 1, 3]), (3, {}, [0, 1, 4]), (2, LATER, [1, 2, 4])],
)
def test_the_null_text_runs_in_every_so_manyth_iteration(every, schedule, runs, monkeypatch):
    """In between its states are the caption's, with the last difference."""
    student, (text, mask), seen, conditions = trained_looking("v").eval(), captions(5), [], []
    attend, tokens = student.mar.cross_attend, TokenSampler.tokens

    def cross_attend(states, text, text_mask, grid, at=None, positions=None):
        seen.append((text_mask is None, attend(states, text, text_mask, grid, None, positions)))
        return attend(states, text, text_mask, grid, at, positions)

    monkeypatch.setattr(student.mar, "cross_attend", cross_attend)
    monkeypatch.setattr(TokenSampler, "tokens", lambda *a: (conditions.append(a[1]), tokens(*a))[1])
    sample(student, text, mask, GRID, settings(iterations=5, null_text_every=every, **schedule), [11])
    with_text, ran, difference = [states for null, states in seen if not null], [], None
    for index, states in enumerate(with_text):
        place = next(number for number, (_, each) in enumerate(seen) if each is states)
        if place + 1 < len(seen) and seen[place + 1][0]:
            ran.append(index)
            difference = seen[place + 1][1] - states
        if len(conditions[index]) == 1:
            continue
        found, expected = conditions[index][1] - conditions[index][0], difference[0]
        distance = (found[:, None] - expected).abs().amax(dim=2).amin(dim=1)
        assert distance.max() < 1e-6
    assert ran == runs


def test_a_null_text_is_not_cached_where_that_saves_nothing():
    """Text blocks without self-attention run at tokens that are unmasked, once for each."""
    student = trained_looking("v")
    student.mar.config = student.mar.config.model_copy(update={"text_self_attention": False})
    with pytest.raises(IncompatibleSamplerError, match="null_text_every is 2, but the student's text blocks have no"):
        sample(student, *captions(5), GRID, settings(null_text_every=2), [11])


@pytest.mark.parametrize("most", [1, 3 * 4 * 2 * 8 * TOKEN_WIDTH])
def test_noise_in_slices_has_the_bits_of_noise_at_once(most, monkeypatch):
    """One iteration in each slice, and about three."""
    shapes = [(5, 1), (4, 2), (3, 2), (1, 7)]

    def noises():
        return list(noise.noises_on(torch.device("cpu"), [torch.Generator().manual_seed(s) for s in SEEDS], shapes, 8))

    at_once = noises()
    monkeypatch.setattr(noise, "MAX_BYTES", most)
    copied = []
    monkeypatch.setattr(noise, "to_device", lambda values, device: (copied.append(values.nbytes), values)[1])
    assert all(found.equal(expected) for found, expected in zip(noises(), at_once, strict=True))
    assert [part.shape for part in at_once] == [(noises, 2 * count, 8) for noises, count in shapes]
    assert len(copied) > 1 and all(taken <= max(most, 4 * 2 * 8 * 8) for taken in copied)
