"""The plain way to sample, and the rungs that lead from it to `lightgen_core.sampling.unmask.sample`, one switch each.

Every rung here is exact: it leaves out work whose result is not used or has been computed before, so that all rungs
draw the same tokens but for the rounding of sums. `sample` has all of them built in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.model.blocks import KeyValue, few_scores_by_products
from lightgen_core.model.mar import Mar, Student, gather_tokens, visible_first
from lightgen_core.sampling.head_samplers import noises_per_token
from lightgen_core.sampling.noise import sample_noises, sample_orders
from lightgen_core.sampling.token_sampler import TokenSampler
from lightgen_core.sampling.unmask import plan_iterations


@dataclass(frozen=True)
class Rungs:
    """Optimisations of the sampler, all off in the plain one."""

    align_once: bool = False
    """Text states once per prompt, instead of in every iteration."""
    kv_once: bool = False
    """The text's keys and values once per prompt."""
    visible_only: bool = False
    """The encoder at visible tokens only, instead of at all with masked ones excluded as keys."""
    image_once: bool = False
    """Image encoder and decoder once for both branches of guidance."""
    chosen_only: bool = False
    """Text blocks at the tokens to unmask only (no effect where the text blocks have self-attention)."""


@torch.no_grad()
@few_scores_by_products()
def sample_by_rungs(
    student: Student,
    text: Tensor,
    text_mask: Tensor | None,
    grid: tuple[int, int],
    config: SamplerConfig,
    seeds: Sequence[int],
    rungs: Rungs,
) -> Tensor:
    """Sample tokens as `sample` does, (batch, tokens, values), in evaluation mode."""
    mar, head, batch, num_tokens = student.mar, TokenSampler(student.head), len(text), grid[0] * grid[1]
    tokens = torch.zeros(batch, num_tokens, student.head.token_width, device=text.device)
    mask = torch.ones(batch, num_tokens, dtype=torch.bool, device=text.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    order = sample_orders(num_tokens, generators).to(text.device)
    aligned: list[Tensor] | None = None
    text_inputs: list[Tensor | list[KeyValue]] | None = None
    for iteration in plan_iterations(num_tokens, num_tokens, config):
        remaining, count = iteration.left, iteration.count
        chosen = order[:, num_tokens - remaining :][:, :count]
        if aligned is None or not rungs.align_once:
            aligned = [mar.align(text, text_mask), mar.null_states(batch, text.shape[1])]
        if text_inputs is None or not rungs.kv_once:
            text_inputs = [mar.text_kv(states) if rungs.kv_once else states for states in aligned]
        branches = list(zip(text_inputs, (text_mask, None), strict=True))[: 2 if config.guidance_scale > 1 else 1]
        images = _encode_images(mar, tokens, mask, grid, remaining, len(branches), rungs)
        attended = [
            _cross_attend(mar, image, kv, kv_mask, grid, chosen, rungs)
            for image, (kv, kv_mask) in zip(images, branches, strict=True)
        ]
        noises = sample_noises(
            generators, [(noises_per_token(config.head_sampler, iteration.steps), count)], tokens.shape[2]
        ).view(-1, batch * count, tokens.shape[2])
        times = head.embed_times(config, iteration.steps, text.device)
        strength = torch.full((), iteration.guidance, device=text.device)
        revealed = head.tokens(torch.stack(attended), noises.to(text.device), config, times, strength)
        tokens.scatter_(1, chosen[..., None].expand(-1, -1, tokens.shape[2]), revealed.unflatten(0, (batch, count)))
        mask.scatter_(1, chosen, False)
    return tokens


def _encode_images(
    mar: Mar, tokens: Tensor, mask: Tensor, grid: tuple[int, int], remaining: int, branches: int, rungs: Rungs
) -> Sequence[Tensor]:
    """Return image states for each branch."""
    if not rungs.image_once:
        tokens, mask = tokens.repeat(branches, 1, 1), mask.repeat(branches, 1)
    if rungs.visible_only:
        states = mar.encode_decode(tokens, mask, grid, num_masked=remaining)
    else:
        everywhere, visible = visible_first(mask)[..., None], tokens.shape[1] - remaining
        seen = (torch.arange(tokens.shape[1], device=mask.device) < visible).expand(len(tokens), -1)
        positions = mar.positions(grid)
        encoded = mar._encode(tokens, everywhere, positions.encoder, seen)[:, :visible]
        states = mar._decode(encoded, everywhere[:, :visible], mask, positions.decoder, padded=False)
    return [states] * branches if rungs.image_once else states.chunk(branches)


def _cross_attend(
    mar: Mar,
    image: Tensor,
    text: Tensor | list[KeyValue],
    mask: Tensor | None,
    grid: tuple[int, int],
    chosen: Tensor,
    rungs: Rungs,
) -> Tensor:
    """Return cross-attended states of the tokens to unmask, (rows, width)."""
    if rungs.chosen_only:
        return mar.cross_attend(image, text, mask, grid, at=chosen).flatten(0, 1)
    return gather_tokens(mar.cross_attend(image, text, mask, grid), chosen).flatten(0, 1)
