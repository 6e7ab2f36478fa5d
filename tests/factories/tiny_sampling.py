"""Samples of tiny students: every kind of head with its samplers, random captions, short schedules."""

import torch

from lightgen_core.config import SamplerConfig
from lightgen_core.sampling.unmask import pad_text
from tests.factories.tiny_student import TEXT_WIDTH, TOKEN_WIDTH, tiny_student

SAMPLERS = [("ddpm", "ddpm"), ("ddpm", "ddim"), ("v", "ddpm"), ("v", "ddim"), ("x", "ddim"), ("flow", "euler")]


def trained_looking(name):
    """A student whose output layers are not zero, as they are at the start."""
    student, generator = tiny_student(name), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        # An untrained ddpm head divides what it does not know by alpha near zero; this keeps its samples of order one.
        student.head.out.weight[:TOKEN_WIDTH] *= 0.05
    return student


def captions(*lengths):
    generator = torch.Generator().manual_seed(2)
    return pad_text([torch.randn(length, TEXT_WIDTH, generator=generator) for length in lengths])


def head_tokens(sampler, conditions, noises, config, steps, guidance):
    """Tokens of a `TokenSampler` in so many steps."""
    times = sampler.embed_times(config, steps, conditions.device)
    return sampler.tokens(conditions, noises, config, times, torch.tensor(guidance, device=conditions.device))


def settings(sampler="ddim", **changes):
    return SamplerConfig(
        **({"iterations": 4, "head_steps": 5, "head_sampler": sampler, "guidance_scale": 3.0} | changes)
    )
