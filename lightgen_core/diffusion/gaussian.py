"""Divergences and likelihoods of diagonal Gaussians, elementwise and in nats."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

HALF_BIN = 1.0 / 255.0
EDGE = 0.999
SMALLEST_PROBABILITY = 1e-12


def interpolate_log_variance(
    fraction: Float[Tensor, "*rows values"],
    low: Float[Tensor, "*rows 1"] | float,
    high: Float[Tensor, "*rows 1"] | float,
) -> Float[Tensor, "*rows values"]:
    """Interpolate from ``low`` at -1 to ``high`` at +1: the code of a learned log-variance (Eq. 15)."""
    share = (fraction + 1) / 2
    return share * high + (1 - share) * low


def kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, variance) || N(other mean, other variance))."""
    gap = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return 0.5 * (gap.exp() - gap - 1.0 + distance)


def normal_cdf(values: Tensor) -> Tensor:
    """Approximate the standard normal's distribution function by tanh (Page 1977), as in the released loss."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (values + 0.044715 * values**3)))


def discretised_log_likelihood(target: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the log-probability of the bin of width 2/255 around ``target``, to infinity beyond -0.999 and 0.999.

    Meant for pixels in [-1, 1] (Ho et al. 2020, Eq. 13); the released model applies it to latents.
    """
    precision = torch.exp(-0.5 * log_variance)
    below_top = normal_cdf(precision * (target - mean + HALF_BIN))
    below_bottom = normal_cdf(precision * (target - mean - HALF_BIN))
    probability = torch.where(
        target < -EDGE, below_top, torch.where(target > EDGE, 1.0 - below_bottom, below_top - below_bottom)
    )
    return probability.clamp(min=SMALLEST_PROBABILITY).log()
