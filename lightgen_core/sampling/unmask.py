"""Sampling: tokens unmasked in random order over a few iterations, each by the diffusion head (MAR, Sec. 3.3).

Order and noise of an image come from its own seed, so the image does not depend on the rest of the batch.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from lightgen_core.config import SamplerConfig
from lightgen_core.device import to_device
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.mar import Mar, Student
from lightgen_core.sampling.head_samplers import check_sampler, head_steps_for, noises_per_token
from lightgen_core.sampling.token_sampler import TokenSampler


def pad_text(
    text: Sequence[Float[Tensor, "_ text_width"]],
) -> tuple[Float[Tensor, "batch text_tokens text_width"], Bool[Tensor, "batch text_tokens"]]:
    """Pad text states of different lengths with zeros; return one tensor and its mask."""
    lengths = torch.tensor([len(states) for states in text], device=text[0].device)
    padded = pad_sequence(list(text), batch_first=True)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def cosine_unmask_schedule(num_masked: int, iterations: int) -> list[int]:
    """Return how many tokens each iteration unmasks, one at least: cos(pi/2 * i / iterations) stay masked after i.

    So there are at most `num_masked` iterations (MaskGIT, Sec. 3.2); the cosine never falls below the straight line.
    """
    iterations = min(iterations, num_masked)
    left, counts = num_masked, []
    for done in range(1, iterations + 1):
        cosine = math.floor(num_masked * math.cos(math.pi / 2 * done / iterations)) if done < iterations else 0
        still = min(left - 1, cosine)
        counts.append(left - still)
        left = still
    return counts


def guidance_at(share: float, config: SamplerConfig) -> float:
    """Return the guidance of an iteration after which `share` of the tokens is known; 1 is none."""
    if config.guidance_schedule == "linear":
        return 1 + (config.guidance_scale - 1) * share
    first, last = (0.0, 1.0) if config.guidance_schedule == "constant" else config.guidance_interval
    return config.guidance_scale if first <= share <= last else 1.0


@torch.no_grad()
def sample(
    student: Student,
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    config: SamplerConfig,
    seeds: Sequence[int],
    *,
    known: Float[Tensor, "batch tokens values"] | None = None,
    keep: Bool[Tensor, " tokens"] | None = None,
    head: TokenSampler | None = None,
) -> Float[Tensor, "batch tokens values"]:
    """Sample image tokens for texts, one image per row, on the device of `text` (the student's).

    Args:
        student: run without dropout, whatever its mode.
        text: raw states of the text encoder (`pad_text`).
        text_mask: true at text tokens; None attends to padding too.
        grid: (h, w) in tokens.
        known, keep: zero-shot inpainting: tokens of `known` where `keep` is true (row-major, one mask for the batch)
            stay bit for bit and condition the rest.
        head: any compiled or recorded loop of the student's head, or its few-step head.

    Raises:
        ValueError: a sampler that does not fit the head, or inputs whose sizes do not fit each other.
    """
    check_sampler(config, get_objective(student.head.config.objective))
    if len(seeds) != len(text):
        raise ValueError(f"{len(seeds)} seeds for {len(text)} texts: give one seed for each image")
    if (known is None) != (keep is None):
        raise ValueError("known and keep belong together: give both, or neither")
    training = student.training
    try:
        head = head or TokenSampler(student.head)
        with torch.autocast(text.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return _sample_tokens(student.eval().mar, head, text, text_mask, grid, config, seeds, known, keep)
    finally:
        student.train(training)


def _sample_tokens(
    mar: Mar,
    head: TokenSampler,
    text: Tensor,
    text_mask: Tensor | None,
    grid: tuple[int, int],
    config: SamplerConfig,
    seeds: Sequence[int],
    known: Tensor | None,
    keep: Tensor | None,
) -> Tensor:
    """Run the iterations: image states, cross-attention, then the head at the tokens to unmask.

    Keys and values of the texts are computed once; those of the null text serve iterations with guidance only. What
    the host draws is copied from page-locked memory, so that the host never waits for the device.
    """
    batch, length, device = len(text), grid[0] * grid[1], text.device
    tokens, mask, masked = _start(batch, length, mar.config.token_width, known, keep, device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    order = to_device(_orders(masked, generators), device)
    branches = [(mar.text_kv(mar.align(text, text_mask)), text_mask)]
    if config.guidance_scale > 1 and config.head_sampler != "few_step":  # whose guidance is inside
        branches.append((mar.text_kv(mar.null_states(batch)), None))
    left = order.shape[1]
    for count in cosine_unmask_schedule(left, config.iterations):
        chosen = order[:, order.shape[1] - left :][:, :count]
        steps, guidance = head_steps_for(1 - left / length, config), guidance_at(1 - (left - count) / length, config)
        states = mar.encode_decode(tokens, mask, grid, num_masked=left)
        conditions = [
            mar.cross_attend(states, kv, kv_mask, grid, at=chosen).flatten(0, 1)
            for kv, kv_mask in (branches if guidance > 1 else branches[:1])
        ]
        noises = _noises(generators, noises_per_token(config.head_sampler, steps), count, mar.config.token_width)
        unmasked = head.tokens(torch.stack(conditions), to_device(noises, device), config, steps, guidance)
        unmasked = unmasked.unflatten(0, (batch, count))
        tokens.scatter_(1, chosen[..., None].expand_as(unmasked), unmasked)
        mask.scatter_(1, chosen, False)
        left -= count
    return tokens


def _start(
    batch: int, length: int, width: int, known: Tensor | None, keep: Tensor | None, device: torch.device
) -> tuple[Float[Tensor, "batch tokens values"], Bool[Tensor, "batch tokens"], int | Bool[Tensor, " tokens"]]:
    """Return the tokens before the first iteration, their mask, and on the host which tokens of an image are masked.

    An int: so many, all of them.
    """
    if known is None or keep is None:
        everywhere = torch.ones(batch, length, dtype=torch.bool, device=device)
        return torch.zeros(batch, length, width, device=device), everywhere, length
    if known.shape != (batch, length, width) or keep.shape != (length,):
        raise ValueError(
            f"known is {tuple(known.shape)} and keep {tuple(keep.shape)}; "
            f"expected {(batch, length, width)} and {(length,)}: tokens of the grid, and one mask for all images"
        )
    tokens = to_device(known, device).float().clone()
    return tokens, ~to_device(keep, device).repeat(batch, 1), ~keep.cpu()


def _orders(masked: int | Bool[Tensor, " tokens"], generators: Sequence[Generator]) -> Int[Tensor, "batch num_masked"]:
    """Sample each image's order of its masked tokens, so many or those where true, with its own generator."""
    where = torch.arange(masked) if isinstance(masked, int) else masked.nonzero()[:, 0]
    return torch.stack([where[torch.randperm(len(where), generator=generator)] for generator in generators])


def _noises(generators: Sequence[Generator], noises: int, count: int, width: int) -> Float[Tensor, "noises rows width"]:
    """Sample noise of `count` tokens of each image; rows are image after image."""
    own = [torch.randn(noises, count, width, generator=generator) for generator in generators]
    return torch.stack(own, dim=1).flatten(1, 2)
