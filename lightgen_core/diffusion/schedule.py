"""The cosine schedule of the ddpm objective.

Formulas: Nichol and Dhariwal 2021, Eq. 17 (cosine) and Eq. 15 (learned variance); Ho et al. 2020, Eq. 6 and 7
(posterior). Everything is computed in float64 and rounded to float32 once.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NUM_TRAIN_STEPS = 1_000
COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999


class Schedule(NamedTuple):
    """Coefficients of each training step, from the least noise to the most."""

    alpha: Float[Tensor, " steps"]
    """Share of the data in a noisy token."""
    sigma: Float[Tensor, " steps"]
    """Share of the noise."""
    posterior_on_clean: Float[Tensor, " steps"]
    posterior_on_noisy: Float[Tensor, " steps"]
    """Weights of the clean and the noisy token in the mean of q(x_{t-1} | x_t, x_0)."""
    log_posterior: Float[Tensor, " steps"]
    """Smallest log-variance: that of the posterior; the first, where it is minus infinity, takes the second's."""
    log_beta: Float[Tensor, " steps"]
    """Largest log-variance."""


def cosine_alpha_bar() -> np.ndarray:
    """Return the share of signal power after each of the 1,000 training steps, float64 (1000,)."""
    ends = np.arange(NUM_TRAIN_STEPS + 1) / NUM_TRAIN_STEPS
    power = np.cos((ends + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - power[1:] / power[:-1], LARGEST_BETA))


def spaced_steps(count: int) -> np.ndarray:
    """Return ``count`` training steps, evenly spread from first to last (one: the first), int64."""
    if not 1 <= count <= NUM_TRAIN_STEPS:
        raise ValueError(f"a ddpm head takes 1 to {NUM_TRAIN_STEPS} steps, got {count}: set head_steps in this range")
    stride = (NUM_TRAIN_STEPS - 1) / (count - 1) if count > 1 else 1.0
    # Summed one stride at a time, as the released code does, so that the same steps are chosen after rounding.
    return np.rint(np.cumsum([0.0] + [stride] * (count - 1))).astype(np.int64)


@functools.cache
def schedule_on(device: torch.device) -> Schedule:
    """Return the schedule on a device, copied there once, so that no training step waits for it."""
    alpha_bar = cosine_alpha_bar()
    previous = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / previous
    posterior = beta * (1 - previous) / (1 - alpha_bar)
    rows = {
        "alpha": np.sqrt(alpha_bar),
        "sigma": np.sqrt(1 - alpha_bar),
        "posterior_on_clean": beta * np.sqrt(previous) / (1 - alpha_bar),
        "posterior_on_noisy": (1 - previous) * np.sqrt(1 - beta) / (1 - alpha_bar),
        "log_posterior": np.log(np.append(posterior[1], posterior[1:])),
        "log_beta": np.log(beta),
    }
    return Schedule(**{name: torch.from_numpy(row).float().to(device) for name, row in rows.items()})
