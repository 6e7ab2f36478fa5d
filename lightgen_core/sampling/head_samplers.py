"""Samplers of the per-token head: from noise to a token in any number of steps, given a denoiser.

`ddpm` is ancestral sampling with learned or posterior variance (Ho et al. 2020; Nichol and Dhariwal 2021), on evenly
spread steps; `ddim` its deterministic form (Song et al. 2021, eta 0); `euler` the same update on a straight path.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.diffusion.gaussian import interpolate_log_variance
from lightgen_core.diffusion.objectives import Objective, get_objective
from lightgen_core.diffusion.schedule import NUM_TRAIN_STEPS, cosine_alpha_bar, spaced_steps

Denoiser = Callable[[Tensor, int], Tensor]
"""denoiser(noisy (rows, values), which of the sampler's steps) -> the head's output (rows, outputs)."""

_SAMPLERS = {"ddpm": ("ddpm", "ddim"), "v": ("ddpm", "ddim"), "flow": ("euler",)}


@dataclass(frozen=True)
class NoiseLevel:
    """One step of a sampler: the noise level it starts from and the next one, closer to the data."""

    timestep: int | float
    """Timestep given to the head, in its objective's unit."""
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


def sampling_schedule(objective: Objective, steps: int) -> list[NoiseLevel]:
    """The steps of a sampler, from pure noise to the data.

    ddpm: evenly spread over the 1,000 training steps, as in the released code; v and flow: from time 1 down in equal
    strides.

    Raises:
        ValueError: more steps than ddpm has.
    """
    if objective.name == "ddpm":
        timesteps = spaced_steps(steps)
        power = cosine_alpha_bar()[timesteps]
        alpha, sigma = np.sqrt(power), np.sqrt(1 - power)
    else:
        timesteps = np.arange(1, steps + 1) / steps
        alpha, sigma = (share.numpy() for share in objective.alpha_sigma(torch.from_numpy(timesteps)))
    next_alpha, next_sigma = np.append(1.0, alpha[:-1]), np.append(0.0, sigma[:-1])
    columns = (column.tolist() for column in (timesteps, alpha, sigma, next_alpha, next_sigma))
    return [NoiseLevel(*row) for row in zip(*columns, strict=True)][::-1]


class SamplerStep(NamedTuple):
    """One step of a sampler. Every path is linear, so a step is two weights, and the noise it adds."""

    timestep: int | float
    """Timestep given to the head, in its objective's unit."""
    on_token: float
    on_prediction: float
    log_variances: tuple[float, float] | None
    """Smallest and largest log-variance of the added noise; none for a step that adds none."""


@functools.cache
def head_steps(name: str, sampler: str, count: int) -> tuple[SamplerStep, ...]:
    """The steps of a sampler for an objective, from pure noise to the data; see `levels` for errors."""
    objective, ancestral = get_objective(name), sampler == "ddpm"
    on_path = sampling_schedule(objective, count)
    return tuple(_step(objective, level, ancestral, last=level is on_path[-1]) for level in on_path)


def _step(objective: Objective, level: NoiseLevel, ancestral: bool, last: bool) -> SamplerStep:
    # The clean token and the noise as weights of prediction and noisy token: the objective applied to units.
    prediction, noisy = torch.eye(2, dtype=torch.float64)
    clean, noise = objective.to_x0_and_noise(prediction, noisy, torch.tensor(level.timestep))
    if ancestral:
        on_clean, on_noisy = level.posterior_weights()
        moved = on_clean * clean + on_noisy * noisy
    else:
        moved = level.next_alpha * clean + level.next_sigma * noise
    on_prediction, on_token = moved.tolist()
    return SamplerStep(
        level.timestep, on_token, on_prediction, level.log_variances() if ancestral and not last else None
    )


def head_steps_for(known: float, config: SamplerConfig) -> int:
    """Head steps of an iteration before which the share `known` of the image's tokens is known.

    The more is known, the less is left to chance, and the fewer steps a token needs (DiSA, Zhao et al. 2025).
    """
    last = config.head_steps if config.head_steps_last is None else config.head_steps_last
    return round(config.head_steps + (last - config.head_steps) * known)


def noises_per_token(sampler: str, steps: int) -> int:
    """Return the number of noises of `sample_head`: one, and for ancestral sampling one a further step."""
    return steps if sampler == "ddpm" else 1


class IncompatibleSamplerError(ValueError):
    """A sampler that does not go with what the head was trained to predict."""


def check_sampler(config: SamplerConfig, objective: Objective) -> None:
    """Raise IncompatibleSamplerError where a head cannot be sampled so, before anything is computed."""
    allowed = _SAMPLERS[objective.name]
    if config.head_sampler not in allowed:
        raise IncompatibleSamplerError(
            f"head_sampler {config.head_sampler!r} does not fit a head trained with objective {objective.name!r}; "
            f"choose {' or '.join(allowed)}"
        )
    fewest = min(config.head_steps, config.head_steps_last or config.head_steps)
    if objective.name == "ddpm" and not 2 <= fewest <= config.head_steps <= NUM_TRAIN_STEPS:
        raise IncompatibleSamplerError(
            f"a ddpm head takes 2 to {NUM_TRAIN_STEPS} sampling steps, found {fewest} to {config.head_steps}; "
            "set head_steps and head_steps_last in this range"
        )


def sample_head(
    denoiser: Denoiser,
    objective: Objective,
    config: SamplerConfig,
    steps: Sequence[SamplerStep],
    noises: Float[Tensor, "noises rows values"],
) -> Float[Tensor, "rows values"]:
    """Tokens from noise. Nothing here waits for the device, or copies to it.

    Args:
        denoiser: the head, with condition and guidance bound.
        objective: what the head was trained to predict.
        config: the temperature scales what ancestral steps add; the deterministic samplers have no other noise than
            the start, so it scales that.
        steps: `head_steps`.
        noises: standard normal, `noises_per_token` of them.
    """
    token = noises[0] if config.head_sampler == "ddpm" else noises[0] * config.temperature
    for index, step in enumerate(steps):
        prediction, variance = objective.split_variance(denoiser(token, index))
        token = step.on_token * token + step.on_prediction * prediction
        if step.log_variances:
            smallest, largest = step.log_variances
            if variance is None:
                token = token + config.temperature * math.exp(0.5 * smallest) * noises[index + 1]
            else:
                deviation = torch.exp(0.5 * interpolate_log_variance(variance, smallest, largest))
                token = token + config.temperature * deviation * noises[index + 1]
    return token
