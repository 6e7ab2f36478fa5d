"""The per-token diffusion head: a residual MLP whose layers are modulated by time and condition (MAR, Sec. 3.2)."""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from lightgen_core.config import HeadConfig
from lightgen_core.model.blocks import NORM_EPS, init_layers, layer_norm

FREQUENCIES = 128
LONGEST_PERIOD = 10_000.0
STEPS_PER_UNIT = 1_000.0


def time_features(steps: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows features"]:
    """Return 128 cosines and 128 sines of a time in steps (0 to 1,000), periods from 2 pi to 2 pi x 10,000."""
    index = torch.arange(FREQUENCIES, dtype=torch.float32, device=steps.device)
    angle = steps[..., None] * torch.exp(-math.log(LONGEST_PERIOD) * index / FREQUENCIES)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def modulate(
    states: Float[Tensor, "*#rows width"], shift: Float[Tensor, "*#rows width"], scale: Float[Tensor, "*#rows width"]
) -> Float[Tensor, "*outer width"]:
    """Apply an affine modulation, the identity at shift 0 and scale 0."""
    return states * (1 + scale) + shift


class AdaLNBlock(nn.Module):
    """x + gate * mlp(modulate(norm(x))); shift, scale and gate come from the condition and start at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = layer_norm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 3 * width)

    def forward(
        self, states: Float[Tensor, "*#rows width"], activated: Float[Tensor, "*#rows width"]
    ) -> Float[Tensor, "*outer width"]:
        """``activated`` is SiLU of the joint embedding of time and condition."""
        shift, scale, gate = self.modulation(activated).chunk(3, dim=-1)
        inner = modulate(self.norm(states), shift, scale)
        return states + gate * self.down(functional.silu(self.up(inner)))


class TokenDenoiser(nn.Module):
    """Predicts, for one noisy token, what its objective asks for: noise and variance (ddpm), v, x, or velocity."""

    def __init__(self, config: HeadConfig, token_width: int, condition_width: int):
        super().__init__()
        self.config = config
        self.token_width = token_width
        width = config.width
        self.time_up = nn.Linear(2 * FREQUENCIES, width)
        self.time_down = nn.Linear(width, width)
        self.condition = nn.Linear(condition_width, width)
        self.token_in = nn.Linear(token_width, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width) for _ in range(config.depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, token_width * (2 if config.objective == "ddpm" else 1))
        self.reset_parameters()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise from ``generator``: Xavier; AdaLN-zero: modulations and output start at zero."""
        init_layers(self, generator)
        for owner in (self, *self.blocks):
            nn.init.zeros_(cast(AdaLNBlock | TokenDenoiser, owner).modulation.weight)
        for layer in (self.time_up, self.time_down):
            nn.init.normal_(layer.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.out.weight)

    def embed_time(self, timestep: Float[Tensor, "*times"] | Int[Tensor, "*times"]) -> Float[Tensor, "*times width"]:
        """Embed times, in the objective's unit, once for all the rows that share them."""
        steps = timestep.float() * (1.0 if self.config.objective == "ddpm" else STEPS_PER_UNIT)
        return self.time_down(functional.silu(self.time_up(time_features(steps))))

    def denoise(
        self,
        noisy: Float[Tensor, "*noise_samples rows token_width"],
        timestep: Float[Tensor, "*times"] | Int[Tensor, "*times"],
        embedded: Float[Tensor, "rows width"],
    ) -> Float[Tensor, "*noise_samples rows outputs"]:
        """Run the head on embedded conditions; ``timestep``, in the objective's unit, broadcasts against the rows."""
        return self.forward_embedded(noisy, self.embed_time(timestep), embedded)

    def forward_embedded(
        self,
        noisy: Float[Tensor, "*noise_samples rows token_width"],
        time: Float[Tensor, "*times width"],
        embedded: Float[Tensor, "*branches rows width"],
    ) -> Float[Tensor, "*outer rows outputs"]:
        """Run the head on embedded times and conditions; the three broadcast against each other."""
        activated = functional.silu(time + embedded)
        states = self.token_in(noisy)
        for block in self.blocks:
            states = block(states, activated)
        shift, scale = self.modulation(activated).chunk(2, dim=-1)
        return self.out(modulate(functional.layer_norm(states, states.shape[-1:], eps=NORM_EPS), shift, scale))

    def forward(
        self,
        noisy: Float[Tensor, "*noise_samples rows token_width"],
        timestep: Float[Tensor, "*times"] | Int[Tensor, "*times"],
        condition: Float[Tensor, "rows condition_width"],
    ) -> Float[Tensor, "*noise_samples rows outputs"]:
        """Return the prediction, and after it for ddpm the variance, (rows, 1 or 2 x token width)."""
        return self.denoise(noisy, timestep, self.condition(condition))
