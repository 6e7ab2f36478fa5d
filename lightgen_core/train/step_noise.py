"""All chance of a training step, drawn in one place and passed on: what is hidden, time, noise, dropped captions,
and where a set stores distributions of latents, the noise that makes tokens of them.

A step's draw depends on (seed, step) and the size of the global batch alone. So any step can be replayed, a resume
needs no state of a random generator, ranks and micro-batches take their rows of one and the same draw, and preference
optimisation can show winner and loser, policy and reference the same mask, time and noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from lightgen_core.config import MaskConfig
from lightgen_core.diffusion.objectives import Objective
from lightgen_core.seeds import seed_of

LARGEST_SEED = 2**32


@dataclass(frozen=True)
class Draw:
    """The draw for a batch; rows are the hidden tokens, image after image: rows = batch x num_hidden."""

    objective: Objective
    """Whose time ``timestep`` is."""
    num_hidden: int
    """Hidden tokens of each image."""
    hidden: Bool[Tensor, "batch tokens"]
    index: Int[Tensor, "batch num_hidden"]
    """Where the hidden tokens are, ascending."""
    text_dropped: Bool[Tensor, " batch"]
    """Images that train without their caption, for guidance."""
    timestep: Float[Tensor, "draws rows"] | Int[Tensor, "draws rows"]
    noise: Float[Tensor, "draws rows values"]
    latent_noise: Float[Tensor, "batch tokens values"] | None = None
    """Standard normal: with it the tokens themselves are drawn, of a set that stores mean and deviation."""

    def rows(self, start: int, stop: int) -> "Draw":
        """The draw of images ``start`` to ``stop`` alone."""
        tokens = slice(start * self.num_hidden, stop * self.num_hidden)
        return replace(
            self,
            hidden=self.hidden[start:stop],
            index=self.index[start:stop],
            text_dropped=self.text_dropped[start:stop],
            timestep=self.timestep[:, tokens],
            noise=self.noise[:, tokens],
            latent_noise=None if self.latent_noise is None else self.latent_noise[start:stop],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Draw":
        """The same on a device; ``non_blocking`` copies from pinned memory without waiting."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Draw":
        """The same in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Draw":
        return replace(
            self,
            hidden=change(self.hidden),
            index=change(self.index),
            text_dropped=change(self.text_dropped),
            timestep=change(self.timestep),
            noise=change(self.noise),
            latent_noise=None if self.latent_noise is None else change(self.latent_noise),
        )


def step_generator(seed: int, step: int) -> Generator:
    """The CPU generator of a training step, the same whenever and wherever the step is run."""
    return torch.Generator().manual_seed(seed_of(seed, "draw", step))


def hidden_count(tokens: int, mask: MaskConfig, generator: Generator) -> int:
    """How many tokens the images of a step hide: the paper's truncated normal share, or a uniform count."""
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    if mask.distribution == "uniform":
        fewest = max(1, math.ceil(mask.min_ratio * tokens))
        count = fewest + int(uniform * (tokens + 1 - fewest))
    else:
        count = math.ceil(tokens * _truncated_normal(uniform, mask))
    return min(tokens, math.ceil(count / mask.multiple) * mask.multiple)


def _truncated_normal(uniform: float, mask: MaskConfig) -> float:
    """The share in [low, 1] below which a ``uniform`` part of the truncated normal's mass lies."""
    bounds = torch.tensor([mask.min_ratio, 1.0], dtype=torch.float64)
    low, high = torch.special.ndtr((bounds - mask.mean) / mask.std).tolist()
    quantile = torch.special.ndtri(torch.tensor(low + uniform * (high - low), dtype=torch.float64)).item()
    return min(max(mask.mean + mask.std * quantile, mask.min_ratio), 1.0)


def draw(
    batch: int,
    tokens: int,
    token_width: int,
    mask: MaskConfig,
    objective: Objective,
    noise_samples_per_token: int,
    caption_dropout: float,
    generator: Generator,
    images: tuple[int, int] | None = None,
    latent_noise: bool = False,
) -> Draw:
    """Draw for a global batch of ``batch`` images of ``tokens`` tokens with ``token_width`` values each.

    Each hidden token gets ``noise_samples_per_token`` pairs of time and noise; a caption is dropped with probability
    ``caption_dropout``. ``images=(start, stop)`` gives the same as ``.rows(start, stop)``, without the noise of the
    other images: each image's noise has a generator of its own. ``latent_noise`` adds noise for every token, and
    changes nothing else of the draw.
    """
    start, stop = images or (0, batch)
    num_hidden = hidden_count(tokens, mask, generator)
    order = torch.rand(batch, tokens, generator=generator).argsort(dim=1)
    time = torch.rand(noise_samples_per_token, batch * num_hidden, generator=generator)
    text_dropped = torch.rand(batch, generator=generator) < caption_dropout
    seeds = torch.randint(LARGEST_SEED, (batch,), generator=generator)[start:stop].tolist()

    index = order[:, :num_hidden].sort(dim=1).values
    hidden = torch.zeros(batch, tokens, dtype=torch.bool).scatter(1, index, True)
    noise = torch.empty(noise_samples_per_token, stop - start, num_hidden, token_width)
    of_latents = torch.empty(stop - start, tokens, token_width) if latent_noise else None
    own = torch.Generator()
    for image, seed in enumerate(seeds):
        own.manual_seed(seed)
        noise[:, image] = torch.randn(noise_samples_per_token, num_hidden, token_width, generator=own)
        if of_latents is not None:
            of_latents[image] = torch.randn(tokens, token_width, generator=own)
    return Draw(
        objective=objective,
        num_hidden=num_hidden,
        hidden=hidden[start:stop],
        index=index[start:stop],
        text_dropped=text_dropped[start:stop],
        timestep=objective.timestep(time[:, start * num_hidden : stop * num_hidden]),
        noise=noise.flatten(1, 2),
        latent_noise=of_latents,
    )
