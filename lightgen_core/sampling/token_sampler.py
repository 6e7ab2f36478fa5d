"""The head's loop over its steps: plain, compiled, or recorded once for each shape and replayed on a GPU.

How the loop is run changes its speed and not what is drawn, beyond the rounding of sums; so it is no part of a recipe.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.diffusion.objectives import objective
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.sampling.head_samplers import Step, head_steps, sample_head


@dataclass(frozen=True)
class Acceleration:
    """compile: the head through torch.compile, once in a process; on a CPU it needs a C++ compiler.

    graphs: a CUDA graph of all the head's steps for each shape: one launch instead of thousands. GPUs only.
    """

    compile: bool = False
    graphs: bool = False


class HeadLoop:
    """Draws tokens with a head. Keep one and pass it to `sample`: it holds what was compiled and recorded."""

    def __init__(self, head: TokenDenoiser, acceleration: Acceleration | None = None):
        self._head = head
        self._goal = objective(head.config.objective)
        self._acceleration = acceleration or Acceleration()
        # Dynamic, since an iteration's tokens differ in number: one compilation for all of them.
        self._denoise = torch.compile(head.denoise_at, dynamic=True) if self._acceleration.compile else head.denoise_at
        self._recorded: dict[tuple, Recorded] = {}

    @torch.no_grad()
    def tokens(
        self,
        conditions: Float[Tensor, "branches rows condition_width"],
        noises: Float[Tensor, "noises rows values"],
        config: SamplerConfig,
        steps: int,
        guidance: float,
    ) -> Float[Tensor, "rows values"]:
        """Tokens for states that have read the caption and, where there is a second branch, the null text."""
        head, along = self._head, head_steps(self._goal.name, config.head_sampler, steps)
        times = head.embed_time(torch.tensor([step.timestep for step in along]).to(noises.device))
        strength = torch.tensor(guidance).to(noises.device)
        inputs = (head.embed(conditions), times, noises, strength)
        if not self._acceleration.graphs:
            return self._loop(along, config, *inputs)
        key = (config.head_sampler, config.temperature, *(given.shape for given in inputs))
        if key not in self._recorded:
            self._recorded[key] = Recorded(functools.partial(self._loop, along, config), inputs)
        return self._recorded[key](*inputs)

    def _loop(
        self,
        along: Sequence[Step],
        config: SamplerConfig,
        embedded: Float[Tensor, "branches rows width"],
        times: Float[Tensor, "steps width"],
        noises: Float[Tensor, "noises rows values"],
        strength: Float[Tensor, ""],
    ) -> Float[Tensor, "rows values"]:
        """All steps. Only the prediction is guided; a learned variance is the caption's (as in the released code)."""
        goal = self._goal

        def denoiser(noisy: Tensor, index: int) -> Tensor:
            outputs = self._denoise(noisy, times[index], embedded).float()
            if len(outputs) == 1:
                return outputs[0]
            (with_text, variance), (without, _) = (goal.split(output) for output in outputs)
            prediction = without + strength * (with_text - without)
            return prediction if variance is None else torch.cat([prediction, variance], dim=-1)

        return sample_head(denoiser, goal, config, along, noises)


class Recorded:
    """A function of tensors as a CUDA graph, for inputs of the shapes it was recorded with."""

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]):
        if inputs[0].device.type != "cuda":
            raise ValueError(
                f"CUDA graphs need a CUDA device, found {inputs[0].device}: switch graphs (LIGHTGEN_CUDA_GRAPHS) off"
            )
        self._inputs = [given.clone() for given in inputs]
        # Lazy initialisation (libraries, compilation) is not allowed while recording, so the function runs before it.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()
