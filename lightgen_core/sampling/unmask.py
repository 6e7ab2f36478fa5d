"""Sampling: tokens unmasked in random order over a few iterations, each by the diffusion head (MAR, Sec. 3.3).

Order and noise of an image come from its own seed, so the image does not depend on the rest of the batch.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lightgen_core.config import SamplerConfig
from lightgen_core.device import to_device
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.blocks import few_scores_by_products
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.mar import Mar, Student, gather_tokens
from lightgen_core.sampling.graphs import TEXT_MULTIPLE
from lightgen_core.sampling.head_samplers import check_sampler, head_steps_for, noises_per_token
from lightgen_core.sampling.noise import noises_on, sample_orders
from lightgen_core.sampling.state import Branch, SamplingState
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


@dataclass(frozen=True)
class Iteration:
    """The sizes of an iteration, which are known before the first.

    left: masked tokens of an image; count: those that it unmasks; steps: of the head; guidance: 1 is none; cached:
    whether the null text's states follow from the caption's.
    """

    left: int
    count: int
    steps: int
    guidance: float
    cached: bool


def plan_iterations(num_masked: int, length: int, config: SamplerConfig) -> list[Iteration]:
    """Return the iterations that unmask so many of `length` tokens."""
    left, guided, iterations = num_masked, 0, list[Iteration]()
    for count in cosine_unmask_schedule(num_masked, config.iterations):
        steps, guidance = head_steps_for(1 - left / length, config), guidance_at(1 - (left - count) / length, config)
        # Not in the second: what the caption adds changes most when the first tokens come in.
        cached = guided > 0 and (guided - 1) % config.null_text_every > 0
        iterations.append(Iteration(left, count, steps, guidance, cached))
        left, guided = left - count, guided + (guidance > 1)
    return iterations


@torch.no_grad()
@few_scores_by_products()
def sample(
    student: Student | FewStepStudent,
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
        student: run without dropout, whatever its mode; a few-step student with `head_sampler` few_step.
        text: raw states of the text encoder (`pad_text`).
        text_mask: true at text tokens; None attends to padding too.
        grid: (h, w) in tokens.
        known, keep: zero-shot inpainting: tokens of `known` where `keep` is true (row-major, one mask for the batch)
            stay bit for bit and condition the rest.
        head: what was compiled and recorded of the student before.

    Raises:
        ValueError: a sampler that does not fit the head, or inputs whose sizes do not fit each other.
    """
    few_steps = student.head.sizes.steps if isinstance(student, FewStepStudent) else None
    objective = get_objective(student.head.config.objective)
    check_sampler(config, objective, student.mar.config.text_self_attention, few_steps)
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
    """Run the iterations, in turn or as recorded graphs.

    Keys and values of the texts are computed once; those of the null text serve iterations with guidance only.
    """
    batch, length, width, device = len(text), grid[0] * grid[1], mar.config.token_width, text.device
    tokens, mask, masked = _start(batch, length, width, known, keep, device)
    generators = [Generator().manual_seed(seed) for seed in seeds]
    order = to_device(sample_orders(masked, generators), device)
    iterations = plan_iterations(order.shape[1], length, config)
    if head.graphs is not None:
        mar = head.graphs.weights(mar, config.precision)
        if text_mask is not None and not mar.config.attend_to_padding:
            text, text_mask = _pad_to_multiple(text, text_mask, TEXT_MULTIPLE)
    branches = [Branch(mar.text_kv(mar.align(text, text_mask)), text_mask)]
    if head.needs_null_text(config):
        branches.append(Branch(mar.text_kv(mar.null_states(batch)), None))
    strengths = to_device(torch.tensor([iteration.guidance for iteration in iterations]), device)
    difference = None
    if len(branches) == 2 and config.null_text_every > 1:
        difference = torch.zeros(batch, length, mar.config.width, device=device)
    state = SamplingState(tokens, mask, order, tuple(branches), strengths, difference)
    shapes = [(noises_per_token(config.head_sampler, each.steps), each.count) for each in iterations]
    noises = noises_on(device, generators, shapes, width)
    unmasker = functools.partial(Unmasker, mar, head, grid, config, iterations, device)
    if head.graphs is not None:
        kernels = tuple((each.left, each.count, each.steps, each.guidance > 1, each.cached) for each in iterations)
        key = (grid, config.head_sampler, config.temperature, config.precision, kernels)
        most_noise = max((batch * each * count * width for each, count in shapes), default=0)
        return head.graphs.shape(key, unmasker, state, most_noise).sample(state, noises)
    unmask = unmasker()
    for index, noise in enumerate(noises):
        unmask(index, state, noise)
    return state.tokens


class Unmasker:
    """Runs an iteration: image states, cross-attention, then the head at the tokens to unmask.

    What all calls of a shape share is computed once: positions of the grid, embedded times.
    """

    def __init__(
        self,
        mar: Mar,
        head: TokenSampler,
        grid: tuple[int, int],
        config: SamplerConfig,
        iterations: Sequence[Iteration],
        device: torch.device,
    ):
        self._mar, self._head, self._grid, self._config, self._iterations = mar, head, grid, config, iterations
        self._positions = mar.positions(grid)
        self._times = {steps: head.embed_times(config, steps, device) for steps in {each.steps for each in iterations}}

    def __call__(self, index: int, state: SamplingState, noises: Float[Tensor, "noises rows values"]) -> None:
        """Unmask the tokens of an iteration, in place, and without a wait for the device."""
        iteration = self._iterations[index]
        chosen = state.order[:, state.order.shape[1] - iteration.left :][:, : iteration.count]
        states = self._mar.encode_decode(state.tokens, state.mask, self._grid, iteration.left, self._positions)
        conditions = torch.stack([branch.flatten(0, 1) for branch in self._attend(states, state, chosen, iteration)])
        times, strength = self._times[iteration.steps], state.strengths[index]
        unmasked = self._head.tokens(conditions, noises, self._config, times, strength)
        unmasked = unmasked.unflatten(0, (-1, iteration.count))
        state.tokens.scatter_(1, chosen[..., None].expand_as(unmasked), unmasked)
        state.mask.scatter_(1, chosen, False)

    def _attend(
        self,
        states: Float[Tensor, "batch tokens width"],
        state: SamplingState,
        chosen: Int[Tensor, "batch chosen"],
        iteration: Iteration,
    ) -> list[Float[Tensor, "batch chosen width"]]:
        """Return the states of chosen tokens after the text blocks, for the caption and, guided, for the null text.

        The condition cache (LazyMAR, Yan et al. 2025): what the caption adds changes little between iterations.
        """

        def attend(branch: Branch, at: Tensor | None) -> Tensor:
            return self._mar.cross_attend(states, branch.kv, branch.mask, self._grid, at, self._positions)

        caption, *null = state.branches
        if iteration.guidance == 1 or not null:
            return [attend(caption, chosen)]
        if state.difference is None:
            return [attend(caption, chosen), attend(null[0], chosen)]
        with_text = attend(caption, None)
        if not iteration.cached:
            state.difference.copy_(attend(null[0], None) - with_text)
        return [gather_tokens(every, chosen) for every in (with_text, with_text + state.difference)]


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


def _pad_to_multiple(
    text: Float[Tensor, "batch text_tokens text_width"], mask: Bool[Tensor, "batch text_tokens"], multiple: int
) -> tuple[Float[Tensor, "batch padded text_width"], Bool[Tensor, "batch padded"]]:
    """Pad texts to a multiple of tokens, which the mask excludes."""
    added = -text.shape[1] % multiple
    return functional.pad(text, (0, 0, 0, added)), functional.pad(mask, (0, added))
