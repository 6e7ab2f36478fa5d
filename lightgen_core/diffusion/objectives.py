"""Prediction targets of the head: noise with learned variance (ddpm), v, the token (x), or a straight path's velocity.

An objective holds no state and no chance: time comes from uniform numbers and noise is passed in. Times are the
objective's own: whole steps 0 to 999 for ddpm, a share of the way to pure noise in [0, 1) for v, x and flow. Losses and
errors come back per token, averaged over channels and nothing else.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightgen_core.diffusion import gaussian
from lightgen_core.diffusion.schedule import NUM_TRAIN_STEPS, schedule_on

SMALLEST_SIGMA = 0.05
"""x: noise below which the error of v grows no more; a token is nearly there (Li and He 2025)."""

Timestep = Float[Tensor, "*#rows"] | Int[Tensor, "*#rows"]


class Objective(ABC):
    """A path from data to noise, x_t = alpha(t) x_0 + sigma(t) noise, and a way to name the direction along it."""

    name: str

    @abstractmethod
    def sample_timesteps(self, uniform: Float[Tensor, "*rows"]) -> Timestep:
        """Return training times from numbers uniform in [0, 1)."""

    @abstractmethod
    def alpha_sigma(self, timestep: Timestep) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        """Return the shares of data and noise at a time."""

    @abstractmethod
    def target(
        self, x0: Float[Tensor, "*rows values"], timestep: Timestep, noise: Float[Tensor, "*rows values"]
    ) -> Float[Tensor, "*rows values"]:
        """Compute the target of the head's prediction."""

    @abstractmethod
    def to_x0_and_noise(
        self, prediction: Float[Tensor, "*rows values"], noisy: Float[Tensor, "*rows values"], timestep: Timestep
    ) -> tuple[Float[Tensor, "*rows values"], Float[Tensor, "*rows values"]]:
        """Return the clean token and the noise of a prediction at a noisy token."""

    def split_variance(self, output: Float[Tensor, "*rows outputs"]) -> tuple[Tensor, Tensor | None]:
        """Split the head's output into prediction and any learned variance."""
        return output, None

    def add_noise(
        self, x0: Float[Tensor, "*rows values"], timestep: Timestep, noise: Float[Tensor, "*rows values"]
    ) -> Float[Tensor, "*rows values"]:
        """Return the token at a time on its path to noise."""
        alpha, sigma = self.alpha_sigma(timestep)
        return alpha[..., None] * x0 + sigma[..., None] * noise

    def residual(
        self,
        output: Float[Tensor, "*rows outputs"],
        x0: Float[Tensor, "*rows values"],
        timestep: Timestep,
        noise: Float[Tensor, "*rows values"],
    ) -> Float[Tensor, "*rows values"]:
        """Compute prediction minus target."""
        prediction, _ = self.split_variance(output.float())
        return prediction - self.target(x0, timestep, noise)

    def loss(
        self,
        output: Float[Tensor, "*rows outputs"],
        x0: Float[Tensor, "*rows values"],
        timestep: Timestep,
        noise: Float[Tensor, "*rows values"],
    ) -> Float[Tensor, "*rows"]:
        """Compute the training loss per token: the squared error, and for ddpm the variance's bound too."""
        return self.residual(output, x0, timestep, noise).square().mean(dim=-1)


class Ddpm(Objective):
    """Noise prediction over 1,000 cosine steps with learned variance (Nichol and Dhariwal 2021), as released."""

    name = "ddpm"

    def sample_timesteps(self, uniform: Float[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
        return (uniform * NUM_TRAIN_STEPS).long()

    def alpha_sigma(self, timestep: Int[Tensor, "*rows"]) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        schedule = schedule_on(timestep.device)
        return schedule.alpha[timestep], schedule.sigma[timestep]

    def target(
        self, x0: Float[Tensor, "*rows values"], timestep: Timestep, noise: Float[Tensor, "*rows values"]
    ) -> Float[Tensor, "*rows values"]:
        return noise

    def to_x0_and_noise(
        self, prediction: Float[Tensor, "*rows values"], noisy: Float[Tensor, "*rows values"], timestep: Timestep
    ) -> tuple[Float[Tensor, "*rows values"], Float[Tensor, "*rows values"]]:
        alpha, sigma = self.alpha_sigma(timestep)
        return (noisy - sigma[..., None] * prediction) / alpha[..., None], prediction

    def split_variance(self, output: Float[Tensor, "*rows outputs"]) -> tuple[Tensor, Tensor]:
        prediction, variance = output.chunk(2, dim=-1)
        return prediction, variance

    def loss(
        self,
        output: Float[Tensor, "*rows outputs"],
        x0: Float[Tensor, "*rows values"],
        timestep: Int[Tensor, "*rows"],
        noise: Float[Tensor, "*rows values"],
    ) -> Float[Tensor, "*rows"]:
        """Compute the squared error plus the bound at a fixed prediction (L_hybrid with weight 1)."""
        prediction, variance = self.split_variance(output.float())
        error = (prediction - noise).square().mean(dim=-1)
        return error + self.variance_bound(prediction.detach(), variance, x0, timestep, noise)

    def variance_bound(
        self,
        prediction: Float[Tensor, "*rows values"],
        variance: Float[Tensor, "*rows values"],
        x0: Float[Tensor, "*rows values"],
        timestep: Int[Tensor, "*rows"],
        noise: Float[Tensor, "*rows values"],
    ) -> Float[Tensor, "*rows"]:
        """Compute a step's term of the bound, bits per channel: KL to the true posterior; at step 0 the likelihood."""
        schedule = schedule_on(timestep.device)
        noisy = self.add_noise(x0, timestep, noise)
        clean, _ = self.to_x0_and_noise(prediction, noisy, timestep)
        on_clean, on_noisy = schedule.posterior_on_clean[timestep, None], schedule.posterior_on_noisy[timestep, None]
        true_mean, mean = on_clean * x0 + on_noisy * noisy, on_clean * clean + on_noisy * noisy
        true_log_variance = schedule.log_posterior[timestep, None]
        log_variance = gaussian.interpolate_log_variance(variance, true_log_variance, schedule.log_beta[timestep, None])
        divergence = gaussian.kl(true_mean, true_log_variance, mean, log_variance)
        surprise = -gaussian.discretised_log_likelihood(x0, mean, log_variance)
        return torch.where(timestep == 0, surprise.mean(dim=-1), divergence.mean(dim=-1)) / math.log(2.0)


class VPrediction(Objective):
    """v = alpha noise - sigma x_0 (Salimans and Ho 2022) on the cosine path: alpha = cos(pi t / 2), sigma = sin."""

    name = "v"

    def sample_timesteps(self, uniform: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        return uniform

    def alpha_sigma(self, timestep: Float[Tensor, "*rows"]) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        angle = timestep * (math.pi / 2)
        return angle.cos(), angle.sin()

    def target(
        self, x0: Float[Tensor, "*rows values"], timestep: Timestep, noise: Float[Tensor, "*rows values"]
    ) -> Float[Tensor, "*rows values"]:
        alpha, sigma = self.alpha_sigma(timestep)
        return alpha[..., None] * noise - sigma[..., None] * x0

    def to_x0_and_noise(
        self, prediction: Float[Tensor, "*rows values"], noisy: Float[Tensor, "*rows values"], timestep: Timestep
    ) -> tuple[Float[Tensor, "*rows values"], Float[Tensor, "*rows values"]]:
        alpha, sigma = (share[..., None] for share in self.alpha_sigma(timestep))
        return alpha * noisy - sigma * prediction, sigma * noisy + alpha * prediction


class XPrediction(VPrediction):
    """The clean token, on the path of v and with v's error (Li and He 2025): the head's output is never noise."""

    name = "x"

    def target(
        self, x0: Float[Tensor, "*rows values"], timestep: Timestep, noise: Float[Tensor, "*rows values"]
    ) -> Float[Tensor, "*rows values"]:
        return x0

    def to_x0_and_noise(
        self, prediction: Float[Tensor, "*rows values"], noisy: Float[Tensor, "*rows values"], timestep: Timestep
    ) -> tuple[Float[Tensor, "*rows values"], Float[Tensor, "*rows values"]]:
        alpha, sigma = (share[..., None] for share in self.alpha_sigma(timestep))
        return prediction, (noisy - alpha * prediction) / sigma.clamp(min=torch.finfo(sigma.dtype).tiny)

    def residual(
        self,
        output: Float[Tensor, "*rows outputs"],
        x0: Float[Tensor, "*rows values"],
        timestep: Timestep,
        noise: Float[Tensor, "*rows values"],
    ) -> Float[Tensor, "*rows values"]:
        """Compute prediction minus target over sigma: v = (alpha x_t - x_0) / sigma, so this is the error of v."""
        _, sigma = self.alpha_sigma(timestep)
        return super().residual(output, x0, timestep, noise) / sigma.clamp(min=SMALLEST_SIGMA)[..., None]


class Flow(Objective):
    """Rectified flow (Liu et al. 2022): the straight path x_t = (1 - t) x_0 + t noise; velocity = noise - x_0."""

    name = "flow"

    def sample_timesteps(self, uniform: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        return uniform

    def alpha_sigma(self, timestep: Float[Tensor, "*rows"]) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        return 1 - timestep, timestep

    def target(
        self, x0: Float[Tensor, "*rows values"], timestep: Timestep, noise: Float[Tensor, "*rows values"]
    ) -> Float[Tensor, "*rows values"]:
        return noise - x0

    def to_x0_and_noise(
        self, prediction: Float[Tensor, "*rows values"], noisy: Float[Tensor, "*rows values"], timestep: Timestep
    ) -> tuple[Float[Tensor, "*rows values"], Float[Tensor, "*rows values"]]:
        time = timestep[..., None]
        return noisy - time * prediction, noisy + (1 - time) * prediction


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective for objective in (Ddpm(), VPrediction(), XPrediction(), Flow())
}


def get_objective(name: str) -> Objective:
    """Return the objective of a name (`HeadConfig.objective`)."""
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
