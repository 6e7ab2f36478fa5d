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

SAMPLERS = {"ddpm": ("ddpm", "ddim"), "v": ("ddpm", "ddim"), "x": ("ddpm", "ddim"), "flow": ("euler",)}
"""Samplers of a diffusion head, by its objective."""


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
        """Return weights of the clean and the noisy token in the mean of q(next | noisy, clean) (Ho et al., Eq. 7)."""
        keep = self.alpha / self.next_alpha
        return self._beta * self.next_alpha / self.sigma**2, keep * (self.next_sigma / self.sigma) ** 2

    def log_variances(self) -> tuple[float, float]:
        """Return log-variances of the next token: the posterior's, and that of the noise added between."""
        return math.log(self._beta * (self.next_sigma / self.sigma) ** 2), math.log(self._beta)

    @property
    def _beta(self) -> float:
        return 1 - (self.alpha / self.next_alpha) ** 2


def sampling_schedule(objective: Objective, steps: int) -> list[NoiseLevel]:
    """Return the steps of a sampler, from pure noise to the data; ValueError for more than ddpm has.

    ddpm: evenly spread over the 1,000 training steps, as in the released code; v, x and flow: evenly over time 1 to 0.
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
    """Return the steps of a sampler for an objective; see `sampling_schedule`."""
    objective, ancestral = get_objective(name), sampler == "ddpm"
    schedule, steps = sampling_schedule(objective, count), []
    for level in schedule:
        # The clean token and the noise as weights of prediction and noisy token: the objective applied to units.
        prediction, noisy = torch.eye(2, dtype=torch.float64)
        clean, noise = objective.to_x0_and_noise(prediction, noisy, torch.tensor(level.timestep))
        if ancestral:
            on_clean, on_noisy = level.posterior_weights()
            token = on_clean * clean + on_noisy * noisy
        else:
            token = level.next_alpha * clean + level.next_sigma * noise
        on_prediction, on_token = token.tolist()
        variances = level.log_variances() if ancestral and level is not schedule[-1] else None
        steps.append(SamplerStep(level.timestep, on_token, on_prediction, variances))
    return tuple(steps)


def head_steps_for(known: float, config: SamplerConfig) -> int:
    """Return the head steps of an iteration: fewer, the more tokens are known (DiSA, Zhao et al. 2025)."""
    last = config.head_steps if config.head_steps_last is None else config.head_steps_last
    return round(config.head_steps + (last - config.head_steps) * min(1.0, known / config.head_steps_last_at))


def noises_per_token(sampler: str, steps: int) -> int:
    """Return the number of noises of `sample_head`: one, or for ancestral sampling one a step."""
    return steps if sampler == "ddpm" else 1


class IncompatibleSamplerError(ValueError):
    """A sampler that does not go with what the head was trained to predict."""


def check_sampler(
    config: SamplerConfig, objective: Objective, text_self_attention: bool, few_steps: int | None = None
) -> None:
    """Raise IncompatibleSamplerError if a student cannot be sampled so; few_steps: that a few-step student learned."""
    if config.null_text_every > 1 and not text_self_attention:
        raise IncompatibleSamplerError(
            f"null_text_every is {config.null_text_every}, but the student's text blocks have no self-attention: they "
            "run where tokens are unmasked alone, once for each token, so there is nothing to reuse; set it to 1"
        )
    if few_steps is not None:
        if config.head_sampler != "few_step":
            raise IncompatibleSamplerError(
                f"head_sampler {config.head_sampler!r} does not fit a few-step student; choose few_step"
            )
        if config.head_steps > few_steps:
            raise IncompatibleSamplerError(
                f"head_steps is {config.head_steps}, but this few-step student learned at most {few_steps}; lower it"
            )
        return
    allowed = SAMPLERS[objective.name]
    if config.head_sampler == "few_step":
        raise IncompatibleSamplerError(
            "head_sampler 'few_step' needs a student that was distilled (stage distil_head); this one was not: "
            f"choose {' or '.join(allowed)}"
        )
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
    noises: Float[Tensor, "noises *samples rows values"],
) -> Float[Tensor, "*samples rows values"]:
    """Sample tokens from noise, without a wait for the device or a copy to it.

    Args:
        denoiser: the head, with condition and guidance bound.
        config: the temperature scales the noise that ancestral steps add; of deterministic samplers, the start.
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
