"""FLOPs of the student, counted from its configuration: against torch's own counter on the real modules."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightgen_core.config import (
    DistilConfig,
    FewStepConfig,
    HeadConfig,
    LoopConfig,
    MarConfig,
    MaskConfig,
    RepaConfig,
    SamplerConfig,
    TrainConfig,
)
from lightgen_core.data.batches import Batch
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.aligned import AlignedStudent
from lightgen_core.model.few_step import new_few_step_student
from lightgen_core.model.flops import (
    expected_training_flops,
    few_step_head,
    few_step_parameters,
    forward_flops,
    num_masked_probabilities,
    projector_parameters,
    sampling_flops,
    step_sizes,
    student_parameters,
    training_flops,
)
from lightgen_core.model.mar import Student, new_student
from lightgen_core.sampling.unmask import sample
from lightgen_core.train.distil_head import DistilHeadCriterion
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.step_noise import StepNoise, sample_num_masked, step_generator
from tests.factories.tiny_student import token_losses

GRID, WORDS, DRAWS, BATCH = (4, 4), 5, 3, 2
MASK = MaskConfig(distribution="uniform", min_ratio=0.5)


def student_of(objective_name: str, self_attention: bool, **changes):
    mar = MarConfig(
        token_width=8,
        text_width=24,
        width=32,
        heads=4,
        aligner_depth=2,
        encoder_depth=1,
        decoder_depth=3,
        text_depth=2,
        text_self_attention=self_attention,
        dropout=0.0,
        position_grid=4,
        **changes,
    )
    return new_student(mar, HeadConfig(width=48, depth=2, objective=objective_name), 0)


@pytest.mark.parametrize("drop_ratio", [0.0, 0.4])
@pytest.mark.parametrize(("objective_name", "self_attention"), [("ddpm", False), ("v", True), ("flow", False)])
def test_training_flops_equal_torch_of_forward_and_backward(objective_name, self_attention, drop_ratio):
    student = student_of(objective_name, self_attention, qk_norm=drop_ratio > 0)
    tokens = GRID[0] * GRID[1]
    generator = torch.Generator().manual_seed(1)
    mask = MASK.model_copy(update={"drop_ratio": drop_ratio})
    config = LoopConfig(batch_size=BATCH, mask=mask, noise_samples_per_token=DRAWS)
    drawn = StepNoise.sample(config, (tokens, 8), get_objective(objective_name), generator, caption_dropout=0.5)
    images, text = torch.randn(BATCH, tokens, 8), torch.randn(BATCH, WORDS, 24)
    kept = drawn.mask.shape[1]
    assert (kept < tokens) == (drop_ratio > 0)
    sizes = {"tokens": kept, "masked": drawn.num_masked, "text_tokens": WORDS, "noise_samples": DRAWS}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        losses = token_losses(student, images, text, None, GRID, drawn)
    expected = forward_flops(student.mar.config, student.head.config, **sizes)
    assert forward.get_total_flops() == BATCH * sum(expected.values())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        losses.mean().backward()
    counted = forward.get_total_flops() + backward.get_total_flops()
    assert counted == BATCH * training_flops(student.mar.config, student.head.config, **sizes)


@pytest.mark.parametrize(("depth", "self_attention"), [(2, False), (4, False), (5, True)])
def test_alignment_flops_equal_torch_of_both_passes(depth, self_attention):
    student = student_of("v", self_attention)
    config = TrainConfig(
        batch_size=BATCH, mask=MASK, noise_samples_per_token=DRAWS, repa=RepaConfig(depth=depth, projector_width=40)
    )
    aligned = AlignedStudent(student, config.repa.resolve(student.mar.config, 12))
    criterion = MaskedDenoisingCriterion(8, get_objective("v"), config)
    images, text = torch.randn(BATCH, 16, 8), torch.randn(BATCH, WORDS, 24)
    batch = Batch(np.arange(BATCH), GRID, images, text, torch.ones(BATCH, WORDS, dtype=torch.bool))
    batch = replace(batch, features=torch.randn(BATCH, 16, 12))
    noise = criterion.sample_noise(GRID, (0, BATCH), step_generator(0, 0))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        criterion.losses(aligned, batch, noise).loss.mean().backward()
    assert counted.get_total_flops() == criterion.flops(aligned, batch, noise)
    assert 0 < noise.num_masked < 16


def test_the_projectors_parameters_are_those_of_the_config():
    student = student_of("v", False)
    projector = RepaConfig().resolve(student.mar.config, 12)
    counted = sum(weight.numel() for weight in AlignedStudent(student, projector).projector.parameters())
    assert projector_parameters(student.mar.config, projector) == counted


@pytest.mark.parametrize(("self_attention", "every"), [(False, 1), (True, 1), (True, 2), (True, 4)])
def test_sampling_flops_equal_torchs_count_to_two_percent(self_attention, every):
    student = student_of("v", self_attention).requires_grad_(False)
    config = SamplerConfig(iterations=6, head_steps=7, head_sampler="ddim", guidance_scale=2.0, null_text_every=every)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        sample(student, torch.randn(1, WORDS, 24), None, GRID, config, seeds=[0])
    expected = sampling_flops(student.mar.config, student.head.config, config, tokens=16, text_tokens=WORDS)
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("masked", "steps"), [(3, 1), (16, 1), (16, 2)])
def test_flops_and_parameters_of_a_few_step_student_are_counted(masked, steps):
    """To two percent: its sampling, and an image of its training, teacher included."""
    teacher, sizes = student_of("v", True).requires_grad_(False), FewStepConfig(width=24, depth=2, steps=steps)
    mar, few_step = teacher.mar.config, new_few_step_student(teacher, sizes, seed=0)
    assert few_step_parameters(mar, sizes) == sum(weight.numel() for weight in few_step.parameters())
    config = SamplerConfig(iterations=6, head_sampler="few_step", head_steps=steps, guidance_scale=2.0)
    text = torch.randn(1, WORDS, 24)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        sample(few_step, text, None, GRID, config, seeds=[0])
    expected = sampling_flops(mar, few_step_head(sizes), config, tokens=16, text_tokens=WORDS)
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.02)
    mask = MaskConfig(distribution="uniform", min_ratio=masked / 16)
    sampler = SamplerConfig(head_steps=8, head_sampler="ddim", guidance_scale=2.0)
    training = DistilConfig(batch_size=1, mask=mask, noise_samples_per_token=DRAWS, head=sizes, sampler=sampler)
    criterion = DistilHeadCriterion(teacher, get_objective("v"), training)
    noise = next(
        each
        for each in (criterion.sample_noise(GRID, (0, 1), step_generator(0, step)) for step in range(1000))
        if each.num_masked == masked
    )
    batch = Batch(ids=np.zeros(1), grid=GRID, tokens=torch.randn(1, 16, mar.token_width), text=text, text_mask=None)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        criterion.losses(few_step.requires_grad_(True), batch, noise).loss.sum().backward()
    assert counted.get_total_flops() == pytest.approx(criterion.flops(few_step, batch, noise), rel=0.02)


@pytest.mark.parametrize(
    "mask",
    [
        MaskConfig(),
        MaskConfig(min_ratio=0.0, std=0.5),
        MaskConfig(distribution="uniform", min_ratio=0.3),
        MaskConfig(multiple=8),
        MaskConfig(multiple=7, min_ratio=0.0, std=0.9),
    ],
)
def test_probabilities_of_mask_counts_are_those_of_the_draws(mask):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sample_num_masked(64, mask, generator) for _ in range(20_000)])
    expected = num_masked_probabilities(64, mask)
    assert sum(expected.values()) == pytest.approx(1)
    for count in range(65):
        assert (drawn == count).double().mean().item() == pytest.approx(expected.get(count, 0.0), abs=0.012)


def test_sizes_of_steps_are_those_of_the_draws():
    mask = MaskConfig(min_ratio=0.5, drop_ratio=0.3)
    config = LoopConfig(batch_size=1, mask=mask, noise_samples_per_token=1)
    drawn = Counter()
    for step in range(4000):
        noise = StepNoise.sample(config, (16, 1), get_objective("v"), step_generator(0, step))
        drawn[noise.mask.shape[1], noise.num_masked] += 1 / 4000
    expected = step_sizes(16, mask)
    assert sum(expected.values()) == pytest.approx(1)
    assert set(drawn) <= set(expected)
    assert all(drawn[size] == pytest.approx(share, abs=0.03) for size, share in expected.items())


def test_expected_flops_lie_between_smallest_and_largest_mask():
    mar, head = MarConfig(), HeadConfig()
    mean = expected_training_flops(mar, head, MaskConfig(), tokens=256, text_tokens=128, noise_samples=4)
    least, most = (
        training_flops(mar, head, tokens=256, masked=n, text_tokens=128, noise_samples=4) for n in (180, 256)
    )
    assert least < mean < most


def test_a_decoder_block_of_the_papers_student_matches_a_formula():
    """It takes 24 x length x width^2, and its attention 4 x length^2 x width."""
    forward = forward_flops(MarConfig(), HeadConfig(), tokens=256, masked=256, text_tokens=128, noise_samples=1)
    assert forward["decoder"] == 16 * (24 * 256 * 1024**2 + 4 * 256**2 * 1024)


@pytest.mark.parametrize(("objective_name", "self_attention"), [("ddpm", False), ("x", False), ("flow", True)])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_parameters_from_the_config_are_those_of_the_student(objective_name, self_attention, qk_norm):
    student = student_of(objective_name, self_attention, qk_norm=qk_norm)
    counted = sum(weight.numel() for weight in student.parameters())
    assert student_parameters(student.mar.config, student.head.config) == counted


def test_the_papers_student_has_0_7_to_0_9_billion_parameters():
    with torch.device("meta"):
        student = Student(MarConfig(), HeadConfig())
    counted = sum(weight.numel() for weight in student.parameters())
    assert student_parameters(MarConfig(), HeadConfig()) == counted
    assert 0.7e9 < counted < 0.9e9
