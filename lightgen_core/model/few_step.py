"""The few-step head: from noise to a token in one evaluation, with guidance inside.

The full sampler's deterministic steps are a function of the noise, the token's states with and without the caption, and
the guidance. This head learns that function (`tasks/distil_head.py`; the idea is that of guided distillation, Meng et
al. 2023, and of regression on a sampler's pairs of noise and data, Luhman and Luhman 2021). By default it sees the
caption's state alone, so that sampling needs no second branch either; what the null text's state would tell is lost.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightgen_core.config import FewStepConfig, HeadConfig
from lightgen_core.model.head import TokenDenoiser

GUIDANCE_UNIT = 0.1
"""Time that a guidance of 1 is embedded as: guidance 1 to 10 over the range of a diffusion head's times."""


class FewStepHead(nn.Module):
    """The residual MLP of a diffusion head; its time is the guidance, and its output the token itself."""

    def __init__(self, sizes: FewStepConfig, token_width: int, condition_width: int):
        super().__init__()
        self.sizes, self.condition_width = sizes, condition_width
        config = HeadConfig(width=sizes.width, depth=sizes.depth, objective="flow")
        self.mlp = TokenDenoiser(config, token_width, condition_width * (2 if sizes.null_text else 1))

    def forward(
        self,
        noise: Float[Tensor, "*noise_samples rows token_width"],
        guidance: Float[Tensor, "*#rows"],
        states: Float[Tensor, "rows states_width"],
    ) -> Float[Tensor, "*noise_samples rows token_width"]:
        """Return the token that the full sampler would reach from a noise; states: `few_step_states`."""
        return self.mlp(noise, guidance * GUIDANCE_UNIT, states)


def few_step_states(
    conditions: Float[Tensor, "branches rows condition_width"], null_text: bool
) -> Float[Tensor, "rows states_width"]:
    """Join what the head sees of states that attended to the caption and, in any second branch, to the null text."""
    return torch.cat([conditions[0], conditions[-1]], dim=-1) if null_text else conditions[0]


def new_few_step_head(sizes: FewStepConfig, token_width: int, condition_width: int, seed: int) -> FewStepHead:
    """Create a head on the CPU with fresh weights from ``seed``; global randomness is untouched."""
    with torch.device("meta"):
        head = FewStepHead(sizes, token_width, condition_width)
    head.to_empty(device="cpu")
    head.mlp.reset_parameters(torch.Generator().manual_seed(seed))
    return head


FIRST_TOKEN = {"v": -1.0, "x": 1.0}
"""Factor from a diffusion head's output at pure noise to its token, for objectives whose output is a token there."""


@torch.no_grad()
def start_from(head: FewStepHead, teacher: TokenDenoiser) -> bool:
    """Give a new head the weights of the diffusion head that it replaces; False where sizes or objective forbid it.

    It then begins as that head's first step from pure noise with the caption: what guidance, the null text's state and
    the further steps change is left to learn.
    """
    sign, mlp, sizes = FIRST_TOKEN.get(teacher.config.objective), head.mlp, head.sizes
    if sign is None or (sizes.width, sizes.depth) != (teacher.config.width, teacher.config.depth):
        return False
    for name, weight in mlp.state_dict().items():
        learned = teacher.state_dict()[name]
        if name == "condition.weight":  # the null text's state comes second
            weight.zero_()
            weight[:, : learned.shape[1]] = learned
        elif name == "time_down.weight":  # the time is the guidance here
            weight.zero_()
        elif name == "time_down.bias":
            weight.copy_(teacher.embed_time(torch.ones(())))
        else:
            weight.copy_(sign * learned if name.startswith("out.") else learned)
    return True
