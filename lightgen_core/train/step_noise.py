"""All randomness of a training step, in one value: mask, timesteps, noise, dropped captions, noise of latents.

It depends on (seed, step) and the size of the global batch alone. So any step can be replayed, a resume needs no state
of a random generator, ranks and micro-batches take their rows of the same noise, and preference optimisation can give
winner and loser, policy and reference the same mask, timesteps and noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from lightgen_core.config import LoopConfig, MaskConfig, TimestepsConfig
from lightgen_core.device import to_device
from lightgen_core.diffusion.objectives import Objective
from lightgen_core.seeds import derive_seed

MAX_SEED = 2**32


@dataclass(frozen=True)
class StepNoise:
    """Randomness of a batch. Rows are its masked tokens, image after image: rows = batch x num_masked."""

    objective: Objective
    """Gives ``timestep`` its unit."""
    num_masked: int
    """Masked tokens of each image, without those that are left out."""
    mask: Bool[Tensor, "batch tokens"]
    masked_index: Int[Tensor, "batch num_masked"]
    """Indices of the masked tokens, ascending."""
    text_dropped: Bool[Tensor, " batch"]
    """Images that train without their caption, for guidance."""
    timestep: Float[Tensor, "noise_samples rows"] | Int[Tensor, "noise_samples rows"]
    noise: Float[Tensor, "noise_samples rows values"]
    latent_noise: Float[Tensor, "batch all_tokens values"] | None = None
    """Standard normal, to sample tokens where a set stores their mean and deviation."""
    places: Int[Tensor, "batch tokens"] | None = None
    """Places of the tokens in the grid, ascending, if some masked ones are left out (`MaskConfig.drop_ratio`); mask and
    masked_index then speak of these tokens."""

    @classmethod
    def sample(
        cls,
        config: LoopConfig,
        shape: tuple[int, int],
        objective: Objective,
        generator: Generator,
        *,
        images: tuple[int, int] | None = None,
        caption_dropout: float = 0.0,
        latent_noise: bool = False,
    ) -> "StepNoise":
        """Sample for a global batch of ``config.batch_size`` images.

        Args:
            shape: tokens of an image, values of a token.
            generator: of the step (`step_generator`).
            images: (start, stop) gives the same as ``.rows(start, stop)`` without making the noise of other images,
                since each image's noise has a generator of its own.
            latent_noise: also sample noise for every token; changes nothing else.
        """
        batch, samples, (tokens, width) = config.batch_size, config.noise_samples_per_token, shape
        start, stop = images or (0, batch)
        all_masked = sample_num_masked(tokens, config.mask, generator)
        num_masked = config.mask.num_learned(all_masked)
        order = torch.rand(batch, tokens, generator=generator).argsort(dim=1)
        time = torch.rand(samples, batch * num_masked, generator=generator)
        text_dropped = torch.rand(batch, generator=generator) < caption_dropout
        seeds = torch.randint(MAX_SEED, (batch,), generator=generator)[start:stop].tolist()

        masked_index = order[:, :num_masked].sort(dim=1).values
        mask = torch.zeros(batch, tokens, dtype=torch.bool).scatter(1, masked_index, True)
        places = None
        if num_masked < all_masked:
            places = torch.cat([order[:, :num_masked], order[:, all_masked:]], dim=1).sort(dim=1).values
            mask = mask.gather(1, places)
            masked_index = mask.nonzero()[:, 1].view(batch, num_masked)
        noise = torch.empty(samples, stop - start, num_masked, width)
        of_latents = torch.empty(stop - start, tokens, width) if latent_noise else None
        per_image = torch.Generator()
        for image, seed in enumerate(seeds):
            per_image.manual_seed(seed)
            noise[:, image] = torch.randn(samples, num_masked, width, generator=per_image)
            if of_latents is not None:
                of_latents[image] = torch.randn(tokens, width, generator=per_image)
        return cls(
            objective=objective,
            num_masked=num_masked,
            mask=mask[start:stop],
            masked_index=masked_index[start:stop],
            text_dropped=text_dropped[start:stop],
            timestep=objective.sample_timesteps(
                warp_uniform(time[:, start * num_masked : stop * num_masked], config.timesteps)
            ),
            noise=noise.flatten(1, 2),
            latent_noise=of_latents,
            places=None if places is None else places[start:stop],
        )

    def rows(self, start: int, stop: int) -> "StepNoise":
        """Return the noise of images ``start`` to ``stop``."""
        tokens = slice(start * self.num_masked, stop * self.num_masked)
        return replace(
            self,
            mask=self.mask[start:stop],
            masked_index=self.masked_index[start:stop],
            text_dropped=self.text_dropped[start:stop],
            timestep=self.timestep[:, tokens],
            noise=self.noise[:, tokens],
            latent_noise=None if self.latent_noise is None else self.latent_noise[start:stop],
            places=None if self.places is None else self.places[start:stop],
        )

    def to(self, device: torch.device) -> "StepNoise":
        """Move to a device, from pinned memory without waiting."""
        return self.map_tensors(lambda tensor: to_device(tensor, device))

    def pin_memory(self) -> "StepNoise":
        """Copy to page-locked memory, each tensor contiguous."""
        return self.map_tensors(lambda tensor: tensor.contiguous().pin_memory())

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> "StepNoise":
        """Return a copy with every tensor changed."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        changes: dict[str, Any] = {name: change(value) for name, value in found.items() if isinstance(value, Tensor)}
        return replace(self, **changes)


def step_generator(seed: int, step: int) -> Generator:
    """Create a step's CPU generator, the same whenever and wherever it runs."""
    return torch.Generator().manual_seed(derive_seed(seed, "draw", step))


def warp_uniform(uniform: Float[Tensor, "*rows"], config: TimestepsConfig) -> Float[Tensor, "*rows"]:
    """Return times in [0, 1), distributed as configured (Esser et al. 2024, Sec. 3.1 and 5.3.2)."""
    if config == TimestepsConfig():
        return uniform
    time = uniform.double()
    if config.distribution == "logit_normal":
        time = torch.sigmoid(config.mean + config.std * torch.special.ndtri(time))
    time = config.shift * time / (1 + (config.shift - 1) * time)
    return time.float().clamp(max=1 - 2**-24)


def sample_num_masked(tokens: int, mask: MaskConfig, generator: Generator) -> int:
    """Sample how many tokens a step masks: the paper's truncated normal ratio, or a uniform count."""
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    if mask.distribution == "uniform":
        fewest = max(1, math.ceil(mask.min_ratio * tokens))
        count = fewest + int(uniform * (tokens + 1 - fewest))
    else:
        count = math.ceil(tokens * _truncated_normal(uniform, mask))
    return mask.rounded(min(tokens, count), tokens)


def _truncated_normal(uniform: float, mask: MaskConfig) -> float:
    """Return the quantile ``uniform`` of the normal mask ratio, truncated to [min_ratio, 1]."""
    bounds = torch.tensor([mask.min_ratio, 1.0], dtype=torch.float64)
    low, high = torch.special.ndtr((bounds - mask.mean) / mask.std).tolist()
    quantile = torch.special.ndtri(torch.tensor(low + uniform * (high - low), dtype=torch.float64)).item()
    return min(max(mask.mean + mask.std * quantile, mask.min_ratio), 1.0)
