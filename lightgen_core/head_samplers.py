"""Samplers of the per-token head: from noise to a token in any number of steps, given a denoiser.

`ddpm` is ancestral sampling with learned or posterior variance (Ho et al. 2020; Nichol and Dhariwal 2021), on evenly
spread steps; `ddim` its deterministic form (Song et al. 2021, eta 0); `euler` the same update on a straight path.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.gaussian import between
from lightgen_core.noise_schedule import cosine_alpha_bar, spaced_steps
from lightgen_core.objectives import Objective

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""denoiser(noisy (rows, values), timestep ()) -> the head's output (rows, outputs)."""

_SAMPLERS = {"ddpm": ("ddpm", "ddim"), "v": ("ddpm", "ddim"), "flow": ("euler",)}


@dataclass(frozen=True)
class Level:
    """One step of a sampler: the noise level it starts from and the next one, closer to the data."""

    timestep: int | float
    """What the head is told, in its objective's unit."""
    alpha: float
    sigma: float
    next_alpha: float
    next_sigma: float

    def posterior_weights(self) -> tuple[float, float]:
        """Weights of the clean and the noisy token in the mean of q(next | noisy, clean) (Ho et al. 2020, Eq. 7)."""
        keep = self.alpha / self.next_alpha
        return self._beta * self.next_alpha / self.sigma**2, keep * (self.next_sigma / self.sigma) ** 2

    def log_variances(self) -> tuple[float, float]:
        """Smallest and largest log-variance of the next token: the posterior's, and that of the noise added between."""
        return math.log(self._beta * (self.next_sigma / self.sigma) ** 2), math.log(self._beta)

    @property
    def _beta(self) -> float:
        return 1 - (self.alpha / self.next_alpha) ** 2


def levels(objective: Objective, steps: int) -> list[Level]:
    """The steps of a sampler, from pure noise to the data.

    ddpm: evenly spread over the 1,000 training steps, as in the released code; v and flow: from time 1 down in equal
    strides.

    Raises:
        ValueError: a number of steps that the objective does not allow.
    """
    if objective.name == "ddpm":
        if steps < 2:
            raise ValueError("a ddpm head needs 2 sampling steps or more; set head_steps to at least 2")
        timesteps = spaced_steps(steps)
        power = cosine_alpha_bar()[timesteps]
        alpha, sigma = np.sqrt(power), np.sqrt(1 - power)
    else:
        timesteps = np.arange(1, steps + 1) / steps
        alpha, sigma = (share.numpy() for share in objective.alpha_sigma(torch.from_numpy(timesteps)))
    next_alpha, next_sigma = np.append(1.0, alpha[:-1]), np.append(0.0, sigma[:-1])
    columns = (column.tolist() for column in (timesteps, alpha, sigma, next_alpha, next_sigma))
    return [Level(*row) for row in zip(*columns, strict=True)][::-1]


def noises_per_token(config: SamplerConfig) -> int:
    """How many noises `sample_head` takes: one to start from, and one for each step but the last if it is ancestral."""
    return config.head_steps if config.head_sampler == "ddpm" else 1


def check_sampler(config: SamplerConfig, objective: Objective) -> None:
    """Raises ValueError where the head's sampler does not go with what the head was trained to predict."""
    allowed = _SAMPLERS[objective.name]
    if config.head_sampler not in allowed:
        raise ValueError(
            f"head_sampler {config.head_sampler!r} does not fit a head trained with objective {objective.name!r}; "
            f"choose {' or '.join(allowed)}"
        )


def sample_head(
    denoiser: Denoiser, objective: Objective, config: SamplerConfig, noises: Float[Tensor, "noises rows values"]
) -> Float[Tensor, "rows values"]:
    """Tokens from noise.

    Args:
        denoiser: the head, with condition and guidance bound.
        noises: standard normal, `noises_per_token(config)` of them. The temperature scales what ancestral steps add;
            the deterministic samplers have no other noise than the start, so it scales that.
    """
    steps, ancestral = levels(objective, config.head_steps), config.head_sampler == "ddpm"
    timesteps = torch.tensor([level.timestep for level in steps], device=noises.device)
    log_variances = torch.tensor([level.log_variances() for level in steps[:-1]], device=noises.device)
    token = noises[0] if ancestral else noises[0] * config.temperature
    for index, (level, timestep) in enumerate(zip(steps, timesteps, strict=True)):
        prediction, variance = objective.split(denoiser(token, timestep))
        clean, noise = objective.recover(prediction, token, timestep)
        if not ancestral:
            token = level.next_alpha * clean + level.next_sigma * noise
            continue
        on_clean, on_noisy = level.posterior_weights()
        token = on_clean * clean + on_noisy * token
        if index < len(steps) - 1:
            smallest, largest = log_variances[index, :, None]
            log_variance = smallest if variance is None else between(variance, smallest, largest)
            token = token + config.temperature * torch.exp(0.5 * log_variance) * noises[index + 1]
    return token
