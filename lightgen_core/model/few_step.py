"""The few-step student: tokens in one or two evaluations of the head each, with guidance inside.

The full sampler's deterministic steps are a function of noise, caption, visible tokens and guidance. A copy of the
student learns where they end (`train/distil_head.py`): guided distillation (Meng et al. 2023) by regression on the
sampler's own pairs of noise and data (Luhman and Luhman 2021). A second step repeats that from the student's own first
guess with half of the noise, as consistency models do (Song et al. 2023).
"""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.head import FREQUENCIES, STEPS_PER_UNIT, TokenDenoiser, time_features
from lightgen_core.model.mar import Mar, Student

GUIDANCE_UNIT = 0.1
"""Time that a guidance of 1 is embedded as: guidance 1 to 10 over the range of a diffusion head's times."""


class FewStepHead(TokenDenoiser):
    """A diffusion head that also knows the guidance, and predicts where the full sampler ends."""

    def __init__(self, sizes: FewStepConfig, token_width: int, condition_width: int):
        super().__init__(
            HeadConfig(width=sizes.width, depth=sizes.depth, objective=sizes.objective), token_width, condition_width
        )
        self.sizes = sizes
        self.guidance = nn.Linear(2 * FREQUENCIES, sizes.width)
        nn.init.zeros_(self.guidance.weight)
        nn.init.zeros_(self.guidance.bias)

    def guided_condition(
        self, condition: Float[Tensor, "*branches rows condition_width"], guidance: Float[Tensor, ""]
    ) -> Float[Tensor, "*branches rows width"]:
        """Embed token states together with the strength of guidance."""
        return self.condition(condition) + self.guidance(time_features(guidance * GUIDANCE_UNIT * STEPS_PER_UNIT))


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
    ) -> tuple[Float[Tensor, "steps noise_samples rows values"], Float[Tensor, "steps noise_samples rows values"]]:
        """Sample the masked tokens from several noises each.

        Return the noisy tokens that each step begins with, without gradient, and the clean ones that it predicts. Other
        arguments are those of `Student`; rows = batch x num_masked.
        """
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
        embedded = self.head.guided_condition(states.flatten(0, 1), guidance)
        objective, count = get_objective(self.head.sizes.objective), self.head.sizes.steps
        times = torch.linspace(1, 0, count + 1, device=noise.device)
        noisy, starts, clean = noise, list[Tensor](), list[Tensor]()
        for time, later in pairwise(times):
            output = self.head.forward_embedded(noisy, self.head.embed_time(time), embedded).float()
            token, left = objective.to_x0_and_noise(output, noisy, time)
            starts.append(noisy)
            clean.append(token)
            alpha, sigma = objective.alpha_sigma(later)
            noisy = (alpha * token + sigma * left).detach()
        return torch.stack(starts), torch.stack(clean)


def new_few_step_student(teacher: Student, sizes: FewStepConfig, seed: int) -> FewStepStudent:
    """Create a few-step student on the CPU with a teacher's transformer; global randomness is untouched.

    Its head has the teacher's weights where width and objective are the teacher's, and else fresh ones from ``seed``.
    """
    with torch.device("meta"):
        student = FewStepStudent(teacher.mar.config, sizes)
    student.to_empty(device="cpu")
    student.head.reset_parameters(torch.Generator().manual_seed(seed))
    student.mar.load_state_dict(teacher.mar.state_dict())
    if start_from(student.head, teacher.head):
        nn.init.zeros_(student.head.guidance.weight)
    return student


def start_from(head: FewStepHead, teacher: TokenDenoiser) -> bool:
    """Give a new head the weights of the diffusion head that it replaces; False where sizes or objective forbid it.

    It then begins as that head, without guidance; blocks beyond the teacher's begin as the identity.
    """
    sizes, config = head.sizes, teacher.config
    if sizes.objective != config.objective or sizes.width != config.width or sizes.depth < config.depth:
        return False
    head.load_state_dict(head.state_dict() | teacher.state_dict())
    return True
