"""The head's loop over its steps: plain, compiled, or recorded once for each shape and replayed on a GPU.

The results are the same but for the rounding of sums, so the choice is no part of a recipe.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightgen_core.config import SamplerConfig
from lightgen_core.device import to_device
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.few_step import FewStepHead
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.sampling.head_samplers import (
    SAMPLERS,
    IncompatibleSamplerError,
    SamplerStep,
    head_steps,
    sample_head,
)

Head = TypeVar("Head", bound=nn.Module)

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""denoise(noisy tokens, time, embedded conditions) -> the head's outputs."""


@dataclass(frozen=True)
class HeadCompileConfig:
    """compile: the head through torch.compile, once in a process; on a CPU it needs a C++ compiler.

    graphs: a CUDA graph of all the head's steps for each shape: one launch instead of thousands. GPUs only.
    """

    compile: bool = False
    graphs: bool = False


def with_half_weights(head: Head) -> Head:
    """Copy a head with the weights of its linear layers in bf16: to the bit what autocast computes with.

    Autocast casts weights when they are first used, and frees the copies when it ends. A recorded graph would go on
    reading that memory, and a compiled step casts all weights again.
    """
    half = copy.deepcopy(head, {id(weight): weight for weight in head.parameters()})  # other weights are shared
    for layer in half.modules():
        if isinstance(layer, nn.Linear):
            layer.weight, layer.bias = (nn.Parameter(part.bfloat16(), False) for part in (layer.weight, layer.bias))
    return half


class TokenSampler:
    """Sampler of tokens with a head; keep it for `sample`, as it holds what was compiled and recorded.

    What is compiled or recorded works on a copy of the weights in the sampler's precision, made once.
    """

    def __init__(
        self,
        head: TokenDenoiser,
        head_compile: HeadCompileConfig | None = None,
        few_step: FewStepHead | None = None,
    ):
        """few_step: the head of a sampler with `head_sampler` few_step."""
        self._head, self._few_step = head, few_step
        self._objective = get_objective(head.config.objective)
        self._head_compile = head_compile or HeadCompileConfig()
        self._denoisers: dict[tuple[str, str], Denoise] = {}
        self._graphs: dict[tuple, CudaGraph] = {}
        self._pool: Any = None

    @torch.no_grad()
    def tokens(
        self,
        conditions: Float[Tensor, "branches rows condition_width"],
        noises: Float[Tensor, "noises rows values"],
        config: SamplerConfig,
        steps: int,
        guidance: float,
    ) -> Float[Tensor, "rows values"]:
        """Sample tokens for states that attended to the caption and, in any second branch, to the null text.

        Raises:
            IncompatibleSamplerError: `head_sampler` few_step of a student without such a head.
        """
        strength = torch.full((), guidance, device=noises.device)
        if config.head_sampler == "few_step":
            return self._run(self._one_step, config, conditions[0], noises[0] * config.temperature, strength)
        along = head_steps(self._objective.name, config.head_sampler, steps)
        timesteps = to_device(torch.tensor([step.timestep for step in along]), noises.device)
        inputs = (self._head.condition(conditions), self._head.embed_time(timesteps), noises, strength)
        return self._run(functools.partial(self._loop, along), config, *inputs)

    def _run(self, function: Callable[..., Tensor], config: SamplerConfig, *inputs: Tensor) -> Tensor:
        """Call a function of the configuration and tensors, recorded once for each shape if asked for."""
        function = functools.partial(function, config)
        if not self._head_compile.graphs:
            return function(*inputs)
        sizes = ((given.shape, given.dtype) for given in inputs)
        key = (config.head_sampler, config.temperature, config.precision, *sizes)
        if key not in self._graphs:
            self._pool = self._pool or torch.cuda.graph_pool_handle()  # graphs run in turn, so they share memory
            self._graphs[key] = CudaGraph(function, inputs, self._pool)
        return self._graphs[key](*inputs)

    def _compiled(self, kind: str, head: TokenDenoiser | FewStepHead, precision: str) -> Denoise:
        """Return a head's step in a precision, compiled if asked for."""
        if (kind, precision) not in self._denoisers:
            compiled, graphs = self._head_compile.compile, self._head_compile.graphs
            head = with_half_weights(head) if precision == "bf16" and (compiled or graphs) else head
            function: Denoise = head if isinstance(head, FewStepHead) else head.forward_embedded
            # Dynamic, since an iteration's tokens differ in number: one compilation for all of them.
            step: Denoise = torch.compile(function, dynamic=True) if compiled else function
            self._denoisers[kind, precision] = step
        return self._denoisers[kind, precision]

    def _one_step(
        self,
        config: SamplerConfig,
        states: Float[Tensor, "rows condition_width"],
        noise: Float[Tensor, "rows values"],
        strength: Float[Tensor, ""],
    ) -> Float[Tensor, "rows values"]:
        """Evaluate the few-step head."""
        if self._few_step is None:
            raise IncompatibleSamplerError(
                "head_sampler 'few_step' needs a student whose head was distilled (stage distil_head); this one has "
                f"none: choose {' or '.join(SAMPLERS[self._objective.name])}"
            )
        return self._compiled("few_step", self._few_step, config.precision)(noise, strength, states).float()

    def _loop(
        self,
        along: Sequence[SamplerStep],
        config: SamplerConfig,
        embedded: Float[Tensor, "branches rows width"],
        times: Float[Tensor, "steps width"],
        noises: Float[Tensor, "noises rows values"],
        strength: Float[Tensor, ""],
    ) -> Float[Tensor, "rows values"]:
        """Run all steps; the prediction is guided, and a learned variance the caption's, as in the released code."""
        objective, denoise = self._objective, self._compiled("full", self._head, config.precision)

        def denoiser(noisy: Tensor, index: int) -> Tensor:
            outputs = denoise(noisy, times[index], embedded).float()
            if len(outputs) == 1:
                return outputs[0]
            (with_text, variance), (without, _) = (objective.split_variance(output) for output in outputs)
            prediction = without + strength * (with_text - without)
            return prediction if variance is None else torch.cat([prediction, variance], dim=-1)

        return sample_head(denoiser, objective, config, along, noises)


class CudaGraph:
    """A function of tensors as a CUDA graph, for inputs of the shapes it was recorded with."""

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor], pool: Any = None):
        """pool: memory that graphs share which never run at once (`torch.cuda.graph_pool_handle`)."""
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
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()
