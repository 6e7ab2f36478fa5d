"""FLOPs of the student, counted from its configuration: against torch's own counter on the real modules."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lightgen_core.config import HeadConfig, LoopConfig, MarConfig, MaskConfig, SamplerConfig
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.flops import (
    expected_training_flops,
    forward_flops,
    num_masked_probabilities,
    sampling_flops,
    student_parameters,
    training_flops,
)
from lightgen_core.model.mar import Student, new_student
from lightgen_core.sampling.unmask import sample
from lightgen_core.train.step_noise import StepNoise, sample_num_masked
from tests.factories.tiny_student import token_losses

GRID, WORDS, DRAWS, BATCH = (4, 4), 5, 3, 2
MASK = MaskConfig(distribution="uniform", min_ratio=0.5)


def student_of(objective_name: str, self_attention: bool):
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
    )
    return new_student(mar, HeadConfig(width=48, depth=2, objective=objective_name), 0)


@pytest.mark.parametrize(("objective_name", "self_attention"), [("ddpm", False), ("v", True), ("flow", False)])
def test_training_flops_equal_torch_of_forward_and_backward(objective_name, self_attention):
    student = student_of(objective_name, self_attention)
    tokens = GRID[0] * GRID[1]
    generator = torch.Generator().manual_seed(1)
    config = LoopConfig(batch_size=BATCH, mask=MASK, noise_samples_per_token=DRAWS)
    drawn = StepNoise.sample(config, (tokens, 8), get_objective(objective_name), generator, caption_dropout=0.5)
    images, text = torch.randn(BATCH, tokens, 8), torch.randn(BATCH, WORDS, 24)
    sizes = {"tokens": tokens, "masked": drawn.num_masked, "text_tokens": WORDS, "noise_samples": DRAWS}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        losses = token_losses(student, images, text, None, GRID, drawn)
    expected = forward_flops(student.mar.config, student.head.config, **sizes)
    assert forward.get_total_flops() == BATCH * sum(expected.values())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        losses.mean().backward()
    counted = forward.get_total_flops() + backward.get_total_flops()
    assert counted == BATCH * training_flops(student.mar.config, student.head.config, **sizes)


@pytest.mark.parametrize(("self_attention", "every"), [(False, 1), (True, 1), (True, 2), (True, 4)])
def test_sampling_flops_equal_torchs_count_to_two_percent(self_attention, every):
    student = student_of("v", self_attention).requires_grad_(False)
    config = SamplerConfig(iterations=6, head_steps=7, head_sampler="ddim", guidance_scale=2.0, null_text_every=every)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        sample(student, torch.randn(1, WORDS, 24), None, GRID, config, seeds=[0])
    expected = sampling_flops(student.mar.config, student.head.config, config, tokens=16, text_tokens=WORDS)
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "mask",
    [
        MaskConfig(),
        MaskConfig(min_ratio=0.0, std=0.5),
        MaskConfig(distribution="uniform", min_ratio=0.3),
        MaskConfig(multiple=8),
    ],
)
def test_probabilities_of_mask_counts_are_those_of_the_draws(mask):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([sample_num_masked(64, mask, generator) for _ in range(20_000)])
    expected = num_masked_probabilities(64, mask)
    assert sum(expected.values()) == pytest.approx(1)
    for count in range(65):
        assert (drawn == count).double().mean().item() == pytest.approx(expected.get(count, 0.0), abs=0.012)


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


@pytest.mark.parametrize(("objective_name", "self_attention"), [("ddpm", False), ("flow", True)])
def test_parameters_from_the_config_are_those_of_the_student(objective_name, self_attention):
    student = student_of(objective_name, self_attention)
    counted = sum(weight.numel() for weight in student.parameters())
    assert student_parameters(student.mar.config, student.head.config) == counted


def test_the_papers_student_has_0_7_to_0_9_billion_parameters():
    with torch.device("meta"):
        student = Student(MarConfig(), HeadConfig())
    counted = sum(weight.numel() for weight in student.parameters())
    assert student_parameters(MarConfig(), HeadConfig()) == counted
    assert 0.7e9 < counted < 0.9e9
