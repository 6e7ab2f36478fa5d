"""The least time that a GPU could take to sample images, from the kernels of a whole call on tensors without values.

Called by `python -m benchmarks.sampling --roofline`. Each setting counts twice. Eager: every kernel takes a launch at
least. In CUDA graphs: an iteration takes one, weights are cast beforehand, and what runs between the graphs counts as
eager.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.fake_cuda.mode import CUDA, FakeCuda, fake_cuda
from benchmarks.fake_cuda.watch import Kernel, Watch
from benchmarks.interleaved import table
from benchmarks.roofline import Ceilings
from lightgen_core.config import FewStepConfig, HeadConfig, MarConfig, SamplerConfig
from lightgen_core.model.blocks import Block, CrossAttentionBlock
from lightgen_core.model.few_step import FewStepStudent
from lightgen_core.model.head import AdaLNBlock
from lightgen_core.model.mar import Mar, Student
from lightgen_core.sampling.token_sampler import HeadCompileConfig, TokenSampler
from lightgen_core.sampling.unmask import sample

FEWEST_STEPS = 2
"""Steps of the head that are run: a first and a last; and then one more, which is what each further one adds."""


@dataclass
class Work:
    """Kernels of a call: those started one by one, and those of graphs, with the number of graphs."""

    single: Counter[Kernel] = field(default_factory=Counter)
    recorded: Counter[Kernel] = field(default_factory=Counter)
    graphs: int = 0

    @property
    def kernels(self) -> Counter[Kernel]:
        """Return all kernels, with their number."""
        return self.single + self.recorded

    def seconds(self, ceilings: Ceilings) -> float:
        """Return the least time, one kernel after another."""
        unlaunched = ceilings._replace(launch=0.0)
        parts = ((self.single, ceilings), (self.recorded, unlaunched))
        taken = sum(count * rates.seconds(kernel) for kernels, rates in parts for kernel, count in kernels.items())
        return taken + self.graphs * ceilings.launch


class CallCounter:
    """Counts the kernels of calls of `sample` in the entered mode, for students of one size.

    images: sampled as one batch; text: of so many tokens, without padding.
    """

    def __init__(self, cuda: FakeCuda, images: int, grid: tuple[int, int], text_tokens: int, shorten: bool = True):
        """shorten: count what is alike without running it again."""
        self._cuda, self._images, self._grid, self._text_tokens = cuda, images, grid, text_tokens
        self._shorten = shorten
        self._warm = set[int]()
        self._seen = {graphs: _Seen() for graphs in (False, True)}

    def count(self, student: Student | FewStepStudent, config: SamplerConfig, graphs: bool) -> Work:
        """Count a call, with graphs one whose shape was recorded before."""
        if id(student) not in self._warm:  # constants are made in a first call
            self._sample(student, config.model_copy(update={"iterations": 1}), TokenSampler(student.head))
            self._warm.add(id(student))
        head = TokenSampler(student.head, HeadCompileConfig(graphs=graphs))
        with mock.patch("lightgen_core.sampling.graphs.CudaGraph", _Replayed):
            if graphs:
                self._sample(student, config, head)
            return self._sample(student, config, head)

    def _sample(self, student: Student | FewStepStudent, config: SamplerConfig, head: TokenSampler) -> Work:
        text = torch.empty(self._images, self._text_tokens, student.mar.config.text_width, device=CUDA)
        call = _Call(self._cuda.watch(), self._seen[head.graphs is not None])
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(_Replayed, "replay", call.replaying()))
            for owner, name in ALIKE if self._shorten else ():
                stack.enter_context(mock.patch.object(owner, name, call.once(owner, name)))
            if self._shorten:
                stack.enter_context(mock.patch.object(TokenSampler, "tokens", call.steps()))
            stack.enter_context(call.watch)
            sample(student, text, None, self._grid, config, range(self._images), head=head)
        call.take(call.work.single)
        return call.work


ALIKE = (
    (Block, "__call__"),
    (CrossAttentionBlock, "__call__"),
    (AdaLNBlock, "__call__"),
    (Mar, "encode_decode"),
    (Mar, "cross_attend"),
)
"""Methods whose kernels follow from the sizes of their arguments, once the weights are cast."""


@dataclass
class _Seen:
    """Kernels of methods, with the result; of the head, kernels of a call with fewest steps, and of a step more."""

    methods: dict[Hashable, tuple[list[Kernel], Tensor]] = field(default_factory=dict)
    steps: dict[Hashable, tuple[list[Kernel], Counter[Kernel]]] = field(default_factory=dict)


class _Call:
    """Counts one call of `sample`. In each the weights are cast once, where they are first used."""

    def __init__(self, watch: Watch, seen: _Seen):
        self.watch, self.work, self._seen = watch, Work(), seen
        self._repeated = Counter[Kernel]()
        self._cast = set[Hashable]()

    def take(self, kernels: Counter[Kernel]) -> None:
        """Move what was counted since the last time."""
        kernels.update(self.watch.kernels)
        kernels.update(self._repeated)
        self.watch.kernels.clear()
        self._repeated.clear()

    def replaying(self) -> Callable[["_Replayed"], None]:
        """Return a replay whose kernels are kept apart."""
        replay = _Replayed.replay

        def replayed(graph: _Replayed) -> None:
            self.take(self.work.single)
            replay(graph)
            self.take(self.work.recorded)
            self.work.graphs += 1

        return replayed

    def once(self, owner: type, name: str) -> Callable[..., Tensor]:
        """Return a method that runs for new sizes alone, and where weights are not cast yet."""
        whole = getattr(owner, name)

        def method(module: nn.Module, *args: Any) -> Tensor:
            key = (owner, name, *map(_size, tree_leaves(args)))
            ready = (id(module), name) in self._cast
            self._cast.add((id(module), name))
            if ready and key in self._seen.methods:
                kernels, output = self._seen.methods[key]
                self.watch.kernels.extend(kernels)
                return torch.empty_like(output)
            before = len(self.watch.kernels)
            output = whole(module, *args)
            if ready:
                self._seen.methods[key] = self.watch.kernels[before:], output
            return output

        return method

    def steps(self) -> Callable[..., Tensor]:
        """Return `TokenSampler.tokens` that runs two and three steps, and counts more of them."""
        whole = TokenSampler.tokens

        def tokens(
            sampler: TokenSampler,
            conditions: Tensor,
            noises: Tensor,
            config: SamplerConfig,
            times: Tensor,
            guide: Tensor,
        ) -> Tensor:
            def run(steps: int) -> list[Kernel]:
                before = len(self.watch.kernels)
                whole(sampler, conditions, noises[:steps], config, times[:steps], guide)
                kernels, self.watch.kernels[before:] = self.watch.kernels[before:], []
                return kernels

            fewest = min(len(times), FEWEST_STEPS)
            guided = sampler.needs_null_text(config)
            key = (config.head_sampler, config.temperature, guided, conditions.shape, fewest, len(times) > fewest)
            ready, self._cast = sampler in self._cast, self._cast | {sampler}
            if not ready:
                self.watch.kernels.extend(run(fewest))
            if key not in self._seen.steps:
                alike = run(fewest)
                more = Counter(run(fewest + 1)) - Counter(alike) if len(times) > fewest else Counter[Kernel]()
                self._seen.steps[key] = alike, more
            alike, more = self._seen.steps[key]
            self.watch.kernels.extend(alike if ready else [])
            self._repeated.update({kernel: count * (len(times) - fewest) for kernel, count in more.items()})
            return torch.empty_like(noises[0])

        return tokens


def _size(value: Any) -> Hashable:
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value


class _Replayed:
    """Stands for a CUDA graph: runs the iteration when it is replayed, not when it is recorded."""

    def __init__(self, function: Callable[[], None], pool: Any):
        self._function = function

    @staticmethod
    def new_pool(device: torch.device) -> Any:
        return object()

    def replay(self) -> None:
        self._function()


def settings(plain: SamplerConfig) -> dict[str, SamplerConfig]:
    """Return the settings from the plain one to the few-step student, each with what those before it leave out."""
    guided = plain.model_copy(update={"guidance_schedule": "interval", "guidance_interval": (0.0, 0.7)})
    falling = guided.model_copy(update={"head_sampler": "ddim", "head_steps": 12, "head_steps_last": 4})
    few_step = plain.model_copy(update={"head_sampler": "few_step", "head_steps": 2, "head_steps_last": None})
    first_tokens = few_step.model_copy(update={"head_steps_last": 1, "head_steps_last_at": 0.2})
    rows = {"plain": plain, "+ guidance until 0.7 is known": guided, "+ 12 steps of ddim, falling to 4": falling}
    for count in (24, 12, 8):
        rows[f"+ {count} iterations"] = falling.model_copy(update={"iterations": count})
    for name, config in (("few-step student", few_step), ("+ one evaluation after the first tokens", first_tokens)):
        for count in (24, 12, 8):
            rows[f"{name}, {count} iterations"] = config.model_copy(update={"iterations": count})
    return rows


def report(
    mar: MarConfig,
    head: HeadConfig,
    rows: Mapping[str, SamplerConfig],
    evaluations: Mapping[str, float],
    ceilings: Ceilings,
    *,
    images: int,
    grid: tuple[int, int],
    text_tokens: int,
) -> str:
    """Return a table of the computed least times; a few-step student has the head's sizes and objective v."""
    few_step = FewStepConfig(width=head.width, depth=head.depth, steps=2)
    lines = list[tuple[str, ...]]()
    with fake_cuda() as cuda:
        counter = CallCounter(cuda, images, grid, text_tokens)
        students = [cuda.build(lambda: Student(mar, head)), cuda.build(lambda: FewStepStudent(mar, few_step))]
        for name, config in rows.items():
            student = students[config.head_sampler == "few_step"]
            eager, recorded = (counter.count(student, config, graphs) for graphs in (False, True))
            lines.append((name, f"{evaluations[name]:.1f}", *_cells(eager, recorded, ceilings, images)))
    columns = ("kernels", "TFLOP", "GB", "eager, ms", "in CUDA graphs, ms", "images/s in graphs")
    return table(("setting", "evaluations", *columns), lines)


def _cells(eager: Work, recorded: Work, ceilings: Ceilings, images: int) -> list[str]:
    kernels = recorded.kernels
    flops = sum(count * kernel.flops for kernel, count in kernels.items())
    moved = sum(count * kernel.bytes for kernel, count in kernels.items())
    seconds = recorded.seconds(ceilings)
    return [
        f"{eager.kernels.total()}",
        f"{flops / 1e12:.2f}",
        f"{moved / 1e9:.1f}",
        f"{1e3 * eager.seconds(ceilings):.1f}",
        f"{1e3 * seconds:.1f}",
        f"{images / seconds:.1f}",
    ]
