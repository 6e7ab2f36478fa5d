"""The few-step student: tokens in one evaluation of the head each, with guidance inside.

The full sampler's deterministic steps are a function of noise, caption, visible tokens and guidance. A copy of the
student learns that function (`train/distil_head.py`): guided distillation (Meng et al. 2023) in a single step by
regression on the sampler's own pairs of noise and data (Luhman and Luhman 2021).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.model.mar import Mar, Student

GUIDANCE_UNIT = 0.1
"""Time that a guidance of 1 is embedded as: guidance 1 to 10 over the range of a diffusion head's times."""
FIRST_TOKEN = {"v": -1.0, "x": 1.0}
"""Factor from a diffusion head's output at pure noise to its token, for objectives whose output is a token there."""


class FewStepHead(nn.Module):
    """The residual MLP of a diffusion head; its time is the guidance, and its output the token itself."""

    def __init__(self, sizes: FewStepConfig, token_width: int, condition_width: int):
        super().__init__()
        self.sizes = sizes
        config = HeadConfig(width=sizes.width, depth=sizes.depth, objective="flow")
        self.mlp = TokenDenoiser(config, token_width, condition_width)

    def forward(
        self,
        noise: Float[Tensor, "*noise_samples rows token_width"],
        guidance: Float[Tensor, "*#rows"],
        condition: Float[Tensor, "rows condition_width"],
    ) -> Float[Tensor, "*noise_samples rows token_width"]:
        """Return the token that the full sampler would reach from a noise, temperature included."""
        return self.mlp(noise, guidance * GUIDANCE_UNIT, condition)


class FewStepStudent(nn.Module):
    """A transformer of a student's sizes whose states hold guidance, and the head that reads them."""

    def __init__(self, mar: MarConfig, head: FewStepConfig):
        super().__init__()
        self.mar = Mar(mar)
        self.head = FewStepHead(head, mar.token_width, mar.width)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        text: Float[Tensor, "batch text_tokens text_width"],
        text_mask: Bool[Tensor, "batch text_tokens"] | None,
        grid: tuple[int, int],
        *,
        mask: Bool[Tensor, "batch tokens"],
        masked_index: Int[Tensor, "batch num_masked"],
        text_dropped: Bool[Tensor, " batch"] | None,
        noise: Float[Tensor, "noise_samples rows values"],
        guidance: Float[Tensor, ""],
        places: Int[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "noise_samples rows values"]:
        """Compute the masked tokens, from several noises each; arguments as of `Student`, rows = batch x num_masked."""
        states = self.mar(
            tokens,
            mask,
            text,
            text_mask,
            grid,
            num_masked=masked_index.shape[1],
            text_dropped=text_dropped,
            at=masked_index,
            places=places,
        )
        return self.head(noise, guidance, states.flatten(0, 1))


def new_few_step_student(teacher: Student, sizes: FewStepConfig, seed: int) -> FewStepStudent:
    """Create a few-step student on the CPU with a teacher's transformer; global randomness is untouched.

    Its head begins as the teacher's first step where sizes and objective allow it (`start_from`), and otherwise with
    fresh weights from ``seed``.
    """
    with torch.device("meta"):
        student = FewStepStudent(teacher.mar.config, sizes)
    student.to_empty(device="cpu")
    student.head.mlp.reset_parameters(torch.Generator().manual_seed(seed))
    student.mar.load_state_dict(teacher.mar.state_dict())
    start_from(student.head, teacher.head)
    return student


@torch.no_grad()
def start_from(head: FewStepHead, teacher: TokenDenoiser) -> bool:
    """Give a new head the weights of the diffusion head that it replaces; False where sizes or objective forbid it.

    It then begins as that head's first step from pure noise, without guidance. Blocks beyond the teacher's begin as the
    identity, with gates of zero.
    """
    sign, mlp, sizes = FIRST_TOKEN.get(teacher.config.objective), head.mlp, head.sizes
    if sign is None or sizes.width != teacher.config.width or sizes.depth < teacher.config.depth:
        return False
    weights = teacher.state_dict()
    for name, weight in mlp.state_dict().items():
        if (learned := weights.get(name)) is None:
            continue
        if name == "time_down.weight":  # the time is the guidance here
            weight.zero_()
        elif name == "time_down.bias":
            weight.copy_(teacher.embed_time(torch.ones(())))
        else:
            weight.copy_(sign * learned if name.startswith("out.") else learned)
    return True
