"""CUDA graphs of whole iterations: recorded once for each shape of a call, then one launch instead of thousands."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightgen_core.model.mar import Mar
from lightgen_core.sampling.half_weights import with_half_weights
from lightgen_core.sampling.state import SamplingState

logger = logging.getLogger(__name__)

MAX_SHAPES = 8
"""Shapes of calls whose graphs are kept, those used last.

A graph holds the arguments of its kernels; activations are in memory that all graphs share. But a shape has a graph for
every iteration, and a copy of the text's keys and values (0.7B, bf16, 16 images of 128 text tokens: 134 MB). To record
a shape takes as long as to sample twice without graphs.
"""

TEXT_MULTIPLE = 32
"""Text tokens are padded to a multiple, under a mask, so that captions of up to 128 tokens have four lengths.

Exact but for the rounding of sums. The number of images is not padded: an image more costs an image's time.
"""

Iteration = Callable[[int, SamplingState, Tensor], None]
"""Changes the state as the iteration of an index does, given its noise."""


class CudaGraph:
    """A function that reads and writes memory which stays where it is: run once, and recorded for later."""

    def __init__(self, function: Callable[[], None], pool: Any):
        """pool: `new_pool`."""
        function()  # not only for its result: lazy initialisation and compilation are not allowed while recording
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, which decode images or write a checkpoint, may allocate memory meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            function()

    @staticmethod
    def new_pool(device: torch.device) -> Any:
        """Return memory for the activations of graphs that never run at once, and so share it."""
        if device.type != "cuda":
            raise ValueError(
                f"CUDA graphs need a CUDA device, found {device}: switch graphs (LIGHTGEN_CUDA_GRAPHS) off"
            )
        return torch.cuda.graph_pool_handle()

    def replay(self) -> None:
        """Run what was recorded."""
        self._graph.replay()


class RecordedShape:
    """The graphs of a call's iterations, and the memory that they read."""

    def __init__(self, iteration: Iteration, state: SamplingState, most_noise: int, pool: Any):
        """most_noise: values of the noise of an iteration, at most."""
        self._iteration, self._state, self._pool = iteration, state.clone(), pool
        self._noise = torch.empty(most_noise, device=state.tokens.device)
        self._graphs: list[CudaGraph] = []

    def sample(
        self, state: SamplingState, noises: Iterable[Float[Tensor, "noises rows values"]]
    ) -> Float[Tensor, "batch tokens values"]:
        """Run all iterations from a state, those that are not recorded yet for the first time."""
        self._state.copy_(state)
        for index, given in enumerate(noises):
            noise = self._noise[: given.numel()].view(given.shape).copy_(given)
            if index < len(self._graphs):
                self._graphs[index].replay()
            else:
                self._graphs.append(CudaGraph(partial(self._iteration, index, self._state, noise), self._pool))
        return self._state.tokens.clone()


class IterationGraphs:
    """The recorded shapes of a student, whose weights must stay as they are."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[Hashable, RecordedShape] = OrderedDict()
        self._pool: Any = None
        self._half: tuple[Mar, Mar] | None = None

    def weights(self, mar: Mar, precision: str) -> Mar:
        """Return what is recorded of a transformer: in bf16 a copy with half weights, made once."""
        if precision != "bf16":
            return mar
        if self._half is None or self._half[0] is not mar:
            self._half = (mar, with_half_weights(mar))
        return self._half[1]

    def shape(
        self, key: Hashable, make_iteration: Callable[[], Iteration], state: SamplingState, most_noise: int
    ) -> RecordedShape:
        """Return the graphs of a call's shape, recorded when its iterations first run.

        Args:
            key: what decides the kernels beside the state's sizes: grid, schedule, sampler, precision.
            make_iteration: called for a new shape; what it holds is part of the graphs.

        Raises:
            ValueError: not on a GPU.
        """
        key = (key, *((part.shape, part.dtype) for part in state.tensors))
        if key not in self._shapes:
            self._pool = self._pool or CudaGraph.new_pool(state.tokens.device)
            if len(self._shapes) == MAX_SHAPES:
                self._shapes.popitem(last=False)
                logger.info("CUDA graphs of the shape used longest ago make room: more than %d are in use", MAX_SHAPES)
            self._shapes[key] = RecordedShape(make_iteration(), state, most_noise, self._pool)
        self._shapes.move_to_end(key)
        return self._shapes[key]
