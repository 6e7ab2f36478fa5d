"""Chance: the same for the same step whatever the split, and distributed as the paper says."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from lightgen_core.config import HeadConfig, LoopConfig, MarConfig, MaskConfig, TimestepsConfig
from lightgen_core.diffusion.objectives import OBJECTIVES, get_objective
from lightgen_core.model.mar import GridPositions, new_student
from lightgen_core.train.losses import predict
from lightgen_core.train.step_noise import StepNoise, sample_num_masked, step_generator, warp_uniform
from tests.factories.tiny_student import token_losses

TENSORS = ("mask", "masked_index", "text_dropped", "timestep", "noise")
BATCH, TOKENS, WIDTH, WORDS = 6, 9, 4, 3


def draw_of(step: int = 5, batch: int = BATCH, name: str = "ddpm", mask: MaskConfig | None = None, **rest) -> StepNoise:
    config = LoopConfig(batch_size=batch, mask=mask or MaskConfig(), noise_samples_per_token=3)
    options = {"caption_dropout": 0.5} | rest
    return StepNoise.sample(config, (TOKENS, WIDTH), get_objective(name), step_generator(1, step), **options)


def same(first: StepNoise, second: StepNoise) -> bool:
    tensors = all(torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS)
    return tensors and first.num_masked == second.num_masked and first.objective is second.objective


def test_a_step_can_be_replayed_and_differs_from_the_next():
    assert same(draw_of(5), draw_of(5))
    assert not torch.equal(draw_of(5).noise[:, :3], draw_of(6).noise[:, :3])
    assert step_generator(1, 2).initial_seed() != step_generator(2, 1).initial_seed()


def test_no_other_random_number_is_touched():
    before = torch.random.get_rng_state()
    draw_of()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (0, 2), (2, 3), (3, 6)])
def test_a_part_drawn_alone_equals_that_part_of_the_whole(start, stop):
    part = draw_of(images=(start, stop))
    assert same(part, draw_of().rows(start, stop))
    assert part.noise.shape == (3, (stop - start) * part.num_masked, WIDTH)


def test_parts_of_parts_are_parts_of_the_whole():
    assert same(draw_of().rows(1, 5).rows(1, 3), draw_of().rows(2, 4))


@pytest.mark.parametrize("step", range(4))
def test_a_draw_says_the_same_in_mask_and_index(step):
    drawn = draw_of(step, mask=MaskConfig(min_ratio=0.3, mean=0.5))
    assert 0 < drawn.num_masked < TOKENS
    assert (drawn.mask.sum(dim=1) == drawn.num_masked).all()
    assert torch.equal(drawn.mask.nonzero()[:, 1].view(BATCH, -1), drawn.masked_index)
    assert drawn.timestep.shape == (3, BATCH * drawn.num_masked)


def test_noise_is_normal_and_independent_of_image_and_draw():
    config = LoopConfig(batch_size=64, noise_samples_per_token=2)
    noise = StepNoise.sample(config, (64, 16), get_objective("v"), step_generator(0, 0)).noise
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    pairs = np.corrcoef(noise.view(2 * 64, -1).numpy())[np.triu_indices(2 * 64, 1)]
    assert np.abs(pairs).max() < 0.2


def test_every_token_is_masked_equally_often():
    mask = MaskConfig(distribution="uniform", min_ratio=0.0)
    mask = torch.cat([draw_of(step, batch=64, mask=mask).mask for step in range(100)])
    share = mask.float().mean(dim=0)
    assert (share - 5 / 9).abs().max() <= 0.03


def test_captions_are_dropped_with_the_given_probability():
    dropped = torch.cat([draw_of(step, batch=64).text_dropped for step in range(100)])
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_times_are_uniform(name):
    config = LoopConfig(batch_size=64, noise_samples_per_token=4)
    sampled = StepNoise.sample(config, (64, 1), get_objective(name), step_generator(0, 1))
    time = sampled.timestep.double().flatten()
    spread = (time + 0.5) / 1000 if name == "ddpm" else time
    assert stats.kstest(spread.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_times_follow_a_shifted_logit_normal(name, shift):
    """The logit of a time is normal, and a shift by s adds log s to it."""
    times = TimestepsConfig(distribution="logit_normal", mean=0.3, std=0.8, shift=shift)
    config = LoopConfig(batch_size=64, noise_samples_per_token=4, timesteps=times)
    time = StepNoise.sample(config, (64, 1), get_objective(name), step_generator(0, 1)).timestep.double().flatten()
    time = (time + 0.5) / 1000 if name == "ddpm" else time
    assert stats.kstest(torch.logit(time).numpy(), "norm", (0.3 + np.log(shift), 0.8)).pvalue > 1e-3


def test_a_shift_of_uniform_times_is_that_of_the_formula():
    uniform = torch.tensor([0.0, 0.25, 0.5, 1 - 2**-24])
    warped = warp_uniform(uniform, TimestepsConfig(shift=3.0))
    assert warped.tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0], abs=1e-6)
    assert warped.max() < 1, "ddpm's last step is 999"
    far = TimestepsConfig(distribution="logit_normal", mean=20.0, std=5.0)
    assert warp_uniform(uniform, far).isfinite().all() and warp_uniform(uniform, far).max() < 1


DROPPING = MaskConfig(distribution="uniform", min_ratio=0.5, drop_ratio=0.5)


@pytest.mark.parametrize("step", range(4))
def test_dropped_tokens_are_masked_ones_and_nothing_else(step):
    """Against the same step without dropping: the visible tokens stay, and half of the masked ones."""
    dropped, plain = draw_of(step, mask=DROPPING), draw_of(step, mask=DROPPING.model_copy(update={"drop_ratio": 0.0}))
    assert dropped.num_masked == plain.num_masked - plain.num_masked // 2
    assert plain.places is None and dropped.places.shape == dropped.mask.shape
    assert torch.equal(dropped.mask.nonzero()[:, 1].view(BATCH, -1), dropped.masked_index)
    for image in range(BATCH):
        places, mask = dropped.places[image], dropped.mask[image]
        assert places.tolist() == sorted(set(places.tolist()))
        assert places[~mask].tolist() == (~plain.mask[image]).nonzero()[:, 0].tolist()
        assert plain.mask[image][places[mask]].all()
    part = draw_of(step, mask=DROPPING, images=(2, 5))
    assert same(part, dropped.rows(2, 5)) and torch.equal(part.places, dropped.places[2:5])


def test_every_masked_token_is_dropped_equally_often():
    learned = torch.zeros(TOKENS)
    for step in range(100):
        drawn = draw_of(step, batch=64, mask=DROPPING)
        learned += torch.bincount(drawn.places[drawn.mask], minlength=TOKENS)
    assert (learned / learned.mean() - 1).abs().max() <= 0.07


def counts(tokens: int, mask: MaskConfig, steps: int = 4000) -> np.ndarray:
    return np.array([sample_num_masked(tokens, mask, step_generator(2, step)) for step in range(steps)])


def test_mask_shares_follow_the_papers_truncated_normal():
    share = counts(10_000, MaskConfig()) / 10_000
    expected = stats.truncnorm((0.7 - 1.0) / 0.25, 0, loc=1.0, scale=0.25)
    assert share.min() >= 0.7 and share.max() <= 1.0
    assert stats.kstest(share, expected.cdf).pvalue > 1e-3


def test_uniform_counts_reach_from_one_token_to_all():
    found, times = np.unique(counts(9, MaskConfig(distribution="uniform", min_ratio=0.0)), return_counts=True)
    assert found.tolist() == list(range(1, 10))
    assert stats.chisquare(times).pvalue > 1e-3


def test_uniform_counts_respect_the_smallest_share():
    assert set(counts(10, MaskConfig(distribution="uniform", min_ratio=0.65), 400)) == {7, 8, 9, 10}


def test_counts_are_rounded_down_but_for_all_tokens():
    """As many steps as without mask everything: rounded up, half of them would."""
    plain, rounded = counts(250, MaskConfig(), 4000), counts(250, MaskConfig(multiple=16), 4000)
    assert np.array_equal(rounded, np.where(plain == 250, 250, plain // 16 * 16))
    assert 0 < (rounded == 250).mean() == (plain == 250).mean() < 0.03


def test_counts_below_the_multiple_are_not_rounded():
    mask = MaskConfig(distribution="uniform", min_ratio=0.0, multiple=4)
    assert set(counts(10, mask, 400)) == {1, 2, 3, 4, 8, 10}


def student_and_batch(name: str, **changes):
    mar = MarConfig(
        token_width=WIDTH,
        text_width=5,
        width=16,
        heads=2,
        aligner_depth=1,
        encoder_depth=1,
        decoder_depth=1,
        text_depth=1,
        position_grid=3,
        dropout=0.0,
        **changes,
    )
    student = new_student(mar, HeadConfig(width=16, depth=2, objective=name), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    tokens = torch.randn(BATCH, TOKENS, WIDTH, generator=generator)
    text = torch.randn(BATCH, WORDS, 5, generator=generator)
    return student, (tokens, text, torch.ones(BATCH, WORDS, dtype=torch.bool))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_masked_tokens_equal_parts_computed_by_hand(name):
    student, (tokens, text, text_mask) = student_and_batch(name)
    drawn = draw_of(name=name, mask=MaskConfig(distribution="uniform", min_ratio=0.3))
    losses = token_losses(student, tokens, text, text_mask, (3, 3), drawn)
    x0, outputs = predict(student, tokens, text, text_mask, (3, 3), drawn)
    residuals = drawn.objective.residual(outputs, x0, drawn.timestep, drawn.noise).unflatten(1, (BATCH, -1))
    assert losses.shape == (3, BATCH, drawn.num_masked)
    assert residuals.shape == (3, BATCH, drawn.num_masked, WIDTH)

    states = student.mar(tokens, drawn.mask, text, text_mask, (3, 3), text_dropped=drawn.text_dropped)
    chosen, image, place = get_objective(name), 4, drawn.num_masked - 1
    row = image * drawn.num_masked + place
    time, noise = drawn.timestep[1, row : row + 1], drawn.noise[1, row : row + 1]
    target = tokens[image, drawn.masked_index[image, place]][None]
    output = student.head(
        chosen.add_noise(target, time, noise), time, states[image, drawn.masked_index[image, place]][None]
    )
    assert losses[1, image, place].item() == pytest.approx(chosen.loss(output, target, time, noise).item(), rel=1e-4)
    assert residuals[1, image, place].square().mean().item() == pytest.approx(
        chosen.residual(output, target, time, noise).square().mean().item(), rel=1e-4
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_micro_batches_are_parts_of_the_whole_batchs(name):
    student, batch = student_and_batch(name)
    drawn = draw_of(name=name)
    whole = token_losses(student, *batch, (3, 3), drawn)
    for start, stop in ((0, 2), (2, 6)):
        part = [tensor[start:stop] for tensor in batch]
        losses = token_losses(student, *part, (3, 3), drawn.rows(start, stop))
        assert torch.allclose(losses, whole[:, start:stop], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("self_attention", [False, True])
def test_learned_tokens_lose_as_if_the_dropped_had_never_been(self_attention):
    """Written out: a student given only the kept tokens, with the positions where they lie."""
    student, (tokens, text, text_mask) = student_and_batch("v", text_self_attention=self_attention)
    drawn = draw_of(name="v", mask=DROPPING)
    assert 0 < drawn.num_masked < (~drawn.mask).sum(dim=1)[0] + drawn.num_masked < TOKENS
    losses = token_losses(student, tokens, text, text_mask, (3, 3), drawn)
    tables = ("encoder_positions", "decoder_positions", "cross_positions")
    for image in range(BATCH):
        places, row = drawn.places[image], drawn.rows(image, image + 1)
        alone = copy.deepcopy(student)
        for name in tables:
            table = getattr(student.mar, name).detach()[places]
            padded = torch.cat([table, torch.zeros(TOKENS - len(places), 16)])
            setattr(alone.mar, name, torch.nn.Parameter(padded))
        alone.mar.positions = lambda grid, places, mar=alone.mar: GridPositions(
            *(getattr(mar, name)[: grid[1]] for name in tables)
        )
        kept = tokens[image : image + 1, places]
        given = dataclasses.replace(row, places=None)
        grid = (1, len(places))
        expected = token_losses(alone, kept, text[image : image + 1], text_mask[image : image + 1], grid, given)
        assert torch.allclose(losses[:, image : image + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("drop_ratio", [0.0, 0.5])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_parameter_learns_from_the_loss(name, drop_ratio):
    student, batch = student_and_batch(name, qk_norm=True)
    drawn = draw_of(name=name, mask=MaskConfig(distribution="uniform", min_ratio=0.3, drop_ratio=drop_ratio))
    assert drawn.num_masked < TOKENS and drawn.text_dropped.any()
    token_losses(student, *batch, (3, 3), drawn).mean().backward()
    assert [name for name, parameter in student.named_parameters() if not parameter.grad.abs().sum() > 0] == []
