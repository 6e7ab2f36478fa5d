"""The cosine schedule of the ddpm objective, in full for training and thinned out for sampling.

Formulas: Nichol and Dhariwal 2021, Eq. 17 (cosine), Eq. 15 (learned variance), and Ho et al. 2020, Eq. 6 and 7
(posterior). Everything is computed in float64 and rounded to float32 once.
"""

import functools
import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_TRAIN_STEPS = 1_000
COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999


@dataclass(frozen=True)
class Schedule:
    """Coefficients of each step, from the least noise to the most."""

    timestep: Int[Tensor, " steps"]
    """The training step that each step stands for: what the head is told."""
    alpha_bar: Float[Tensor, " steps"]
    alpha_bar_previous: Float[Tensor, " steps"]
    """``alpha_bar`` one step closer to the data; 1 at the first."""
    alpha: Float[Tensor, " steps"]
    """Share of the data in a noisy token: sqrt(alpha_bar)."""
    sigma: Float[Tensor, " steps"]
    """Share of the noise: sqrt(1 - alpha_bar)."""
    posterior_on_clean: Float[Tensor, " steps"]
    posterior_on_noisy: Float[Tensor, " steps"]
    """Weights of the clean and the noisy token in the mean of q(x_{t-1} | x_t, x_0)."""
    log_posterior: Float[Tensor, " steps"]
    """Smallest log-variance: that of the posterior; the first, where it is minus infinity, takes the second's."""
    log_beta: Float[Tensor, " steps"]
    """Largest log-variance."""

    def to(self, device: torch.device) -> "Schedule":
        """The same on a device."""
        return Schedule(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def cosine_alpha_bar() -> np.ndarray:
    """Share of signal power left after each of the 1,000 training steps, float64 (1000,)."""
    ends = np.arange(NUM_TRAIN_STEPS + 1) / NUM_TRAIN_STEPS
    power = np.cos((ends + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - power[1:] / power[:-1], LARGEST_BETA))


def spaced_steps(count: int) -> np.ndarray:
    """``count`` of the training steps, evenly spread, first and last among them (one step: the first), int64."""
    if not 1 <= count <= NUM_TRAIN_STEPS:
        raise ValueError(f"a ddpm head takes 1 to {NUM_TRAIN_STEPS} steps, got {count}: set head_steps in this range")
    stride = (NUM_TRAIN_STEPS - 1) / (count - 1) if count > 1 else 1.0
    # Summed one stride at a time, as the released code does, so that the same steps are chosen after rounding.
    return np.rint(np.cumsum([0.0] + [stride] * (count - 1))).astype(np.int64)


@functools.cache
def spaced_schedule(count: int = NUM_TRAIN_STEPS) -> Schedule:
    """The schedule of ``count`` steps on the CPU: all 1,000 for training, fewer for sampling."""
    steps = spaced_steps(count)
    alpha_bar = cosine_alpha_bar()[steps]
    previous = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / previous
    posterior = beta * (1 - previous) / (1 - alpha_bar)
    rows = {
        "alpha_bar": alpha_bar,
        "alpha_bar_previous": previous,
        "alpha": np.sqrt(alpha_bar),
        "sigma": np.sqrt(1 - alpha_bar),
        "posterior_on_clean": beta * np.sqrt(previous) / (1 - alpha_bar),
        "posterior_on_noisy": (1 - previous) * np.sqrt(1 - beta) / (1 - alpha_bar),
        "log_posterior": np.log(np.append(posterior[1:2] if count > 1 else beta, posterior[1:])),
        "log_beta": np.log(beta),
    }
    return Schedule(
        timestep=torch.from_numpy(steps), **{name: torch.from_numpy(row).float() for name, row in rows.items()}
    )


@functools.cache
def schedule_on(device: torch.device, count: int = NUM_TRAIN_STEPS) -> Schedule:
    """The same on a device: copied once, so that a training step does not wait for the copy."""
    return spaced_schedule(count).to(device)
