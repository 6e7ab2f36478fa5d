"""The head's loop over its steps, plain or compiled.

The results are the same but for the rounding of sums, so the choice is no part of a recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.device import to_device
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.few_step import FewStepHead
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.sampling.graphs import IterationGraphs
from lightgen_core.sampling.half_weights import with_half_weights
from lightgen_core.sampling.head_samplers import SAMPLERS, head_steps, sample_head

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""denoise(noisy tokens, time, embedded conditions) -> the head's outputs."""


@dataclass(frozen=True)
class HeadCompileConfig:
    """compile: the head through torch.compile, once in a process; on a CPU it needs a C++ compiler.

    graphs: a CUDA graph of each iteration, transformer and head: one launch instead of thousands. GPUs only.
    """

    compile: bool = False
    graphs: bool = False


class TokenSampler:
    """Sampler of tokens with a head; keep it for `sample`, as it holds what was compiled and recorded.

    What is compiled or recorded works on a copy of the weights in the sampler's precision, made once.
    """

    def __init__(self, head: TokenDenoiser, head_compile: HeadCompileConfig | None = None):
        self._head = head
        self._head_compile = head_compile or HeadCompileConfig()
        self._half: dict[TokenDenoiser, TokenDenoiser] = {}
        self._compiled: dict[TokenDenoiser, Denoise] = {}
        self.graphs = IterationGraphs() if self._head_compile.graphs else None

    def needs_null_text(self, config: SamplerConfig) -> bool:
        """Return whether tokens depend on the null text's states; the few-step head has guidance inside."""
        return config.guidance_scale > 1 and not isinstance(self._head, FewStepHead)

    @torch.no_grad()
    def embed_times(self, config: SamplerConfig, steps: int, device: torch.device) -> Float[Tensor, "steps width"]:
        """Embed the times of so many steps of the head."""
        along = head_steps(self._head.config.objective, self._solver(config), steps)
        timesteps = to_device(torch.tensor([step.timestep for step in along]), device)
        return self._in(config.precision, self._head).embed_time(timesteps)

    @torch.no_grad()
    def tokens(
        self,
        conditions: Float[Tensor, "branches rows condition_width"],
        noises: Float[Tensor, "noises rows values"],
        config: SamplerConfig,
        times: Float[Tensor, "steps width"],
        strength: Float[Tensor, ""],
    ) -> Float[Tensor, "rows values"]:
        """Sample tokens for states that attended to the caption and, in any second branch, to the null text.

        The prediction is guided, and a learned variance the caption's, as in the released code.

        times: `embed_times`; strength: of the guidance.
        """
        objective, head = get_objective(self._head.config.objective), self._in(config.precision, self._head)
        if isinstance(head, FewStepHead):
            embedded = head.guided_condition(conditions, strength)
        else:
            embedded = head.condition(conditions)
        denoise, along = self._denoise(head), head_steps(objective.name, self._solver(config), len(times))

        def denoiser(noisy: Tensor, index: int) -> Tensor:
            outputs = denoise(noisy, times[index], embedded).float()
            if len(outputs) == 1:
                return outputs[0]
            (with_text, variance), (without, _) = (objective.split_variance(output) for output in outputs)
            prediction = without + strength * (with_text - without)
            return prediction if variance is None else torch.cat([prediction, variance], dim=-1)

        return sample_head(denoiser, objective, config, along, noises)

    def _solver(self, config: SamplerConfig) -> str:
        """Return the sampler of the head's steps: of a few-step student the deterministic one."""
        few_step = isinstance(self._head, FewStepHead)
        return SAMPLERS[self._head.config.objective][-1] if few_step else config.head_sampler

    def _in(self, precision: str, head: TokenDenoiser) -> TokenDenoiser:
        """Return a head as it runs in a precision: to be compiled or recorded in bf16 a copy with half weights."""
        if precision != "bf16" or not (self._head_compile.compile or self._head_compile.graphs):
            return head
        if head not in self._half:
            self._half[head] = with_half_weights(head)
        return self._half[head]

    def _denoise(self, head: TokenDenoiser) -> Denoise:
        """Return the evaluation of a head, compiled if asked for."""
        if not self._head_compile.compile:
            return head.forward_embedded
        if head not in self._compiled:
            # Dynamic, since an iteration's tokens differ in number: one compilation for all of them.
            self._compiled[head] = torch.compile(head.forward_embedded, dynamic=True)
        return self._compiled[head]
