"""Trains tiny sharded students as one of several processes: `python shard_as_rank.py FOLDER RANK PROCESSES`."""

import json
import math
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from lightgen_core.config import OptimizerConfig, ParallelConfig
from lightgen_core.data.batches import TokenSource
from lightgen_core.train import gather, muon_shards
from lightgen_core.train.loop import TrainResult
from lightgen_core.train.muon import orthogonalize
from lightgen_core.train.muon_shards import orthogonalize_shards, orthogonalize_shared
from lightgen_core.train.optimizer import make_optimizer
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import TrainStep
from tests.factories.tiny_student import PATCH, tiny_student, tiny_training, train
from tests.programs.train_as_rank import Interrupted, UntilStep

BATCH = 12
"""Rows of a step: shares of two and of three processes divide into several micro-batches."""
MUON = OptimizerConfig(learning_rate=3e-3, warmup_steps=2, max_grad_norm=0.3, name="muon")
"""Gradients are longer than that and scaled down."""
FSDP, DDP = ParallelConfig(parallel="fsdp", micro_batch=2), ParallelConfig(parallel="ddp", micro_batch=2)


def source_of(data: Path) -> TokenSource:
    return TokenSource([data / "tokens.parquet"], patch=PATCH, batch_size=BATCH, seed=7)


def fitted(data: Path, folder: Path, layout: ParallelConfig, until: int = 99, **config: Any) -> TrainResult:
    """Train six steps on the tokens in the folder `data`; the run ends before step `until`."""
    place: dict = {"seed": 7, "folder": folder, "device": torch.device("cpu"), "parallel": layout}
    settings = tiny_training(batch_size=BATCH, **config)
    return train(tiny_student("v", dropout=0.0), UntilStep(source_of(data), until), settings, **place)


class Casts(TorchDispatchMode):
    """Counts casts from fp32 by shape of the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float32:
            self.shapes[tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(messages: list[list[Any]]):
    """Record operation, dtype and values of every collective of fsdp."""

    def recording(name: str):
        original = getattr(dist, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            largest = max((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), key=Tensor.numel)
            messages.append([name, str(largest.dtype), largest.numel()])
            return original(*args, **kwargs)

        return mock.patch.object(dist, name, run)

    with recording("all_gather_into_tensor"), recording("reduce_scatter_tensor"), recording("gather"):
        yield


def one_step(data: Path, layout: ParallelConfig) -> dict[str, Any]:
    """Make an update in bf16 and return the messages it took, those of a checkpoint, and shapes cast from fp32."""
    config = tiny_training(batch_size=BATCH, precision="bf16")
    student, source = tiny_student("v", dropout=0.0), source_of(data)
    criterion = MaskedDenoisingCriterion.create(student, source, config)
    criterion.prepare(student, torch.device("cpu"))
    training = TrainStep(student, criterion, 7, torch.device("cpu"), layout)
    messages: list[list[Any]] = []
    if isinstance(training._called, DistributedDataParallel):

        def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            messages.append(["all_reduce", str(bucket.buffer().dtype), bucket.buffer().numel()])
            return allreduce_hook(state, bucket)

        training._called.register_comm_hook(None, hook)
    parts = training.prepare(0, source)
    saved: list[list[Any]] = []
    with counted(messages), Casts() as casts:
        training.step(0, parts)
    with counted(saved):
        tensors = training.state.tensors()
    return {
        "parts": len(parts),
        "messages": messages,
        "saved": saved,
        "tensors": sum(map(len, tensors.values())),
        "casts": [list(shape) for shape in casts.shapes],
    }


def one_update(data: Path) -> TrainStep:
    """Return a sharded training with Muon after its first step."""
    config = tiny_training(batch_size=BATCH, optimizer=MUON)
    student, source = tiny_student("v", dropout=0.0), source_of(data)
    criterion = MaskedDenoisingCriterion.create(student, source, config)
    training = TrainStep(student, criterion, 7, torch.device("cpu"), FSDP)
    training.step(0, training.prepare(0, source))
    return training


def in_buckets(training: TrainStep) -> bool:
    """Return whether a checkpoint gathered in messages of any size equals one gathered tensor by tensor."""
    one_by_one = {name: tensor.full_tensor() for name, tensor in training.state.module.state_dict().items()}
    expected = one_by_one if dist.get_rank() == 0 else {}
    for values in (1, 100, 2**26):
        with mock.patch.object(gather, "BUCKET_VALUES", values):
            joined = training.state.model_tensors()[0]
        if joined.keys() != expected.keys() or not all(torch.equal(joined[name], expected[name]) for name in expected):
            return False
    return True


def skipped(training: TrainStep, data: Path) -> bool:
    """Return whether a step after one that was not finite leaves weights and moments as they are."""
    state = training.state
    before = [
        value.clone()
        for weight in state.weights.values()
        for value in (weight, *state.optimizer.state[weight].values())
    ]
    training._nonfinite_at.fill_(0)
    training.step(1, training.prepare(1, source_of(data)))
    after = [value for weight in state.weights.values() for value in (weight, *state.optimizer.state[weight].values())]
    return all(map(torch.equal, before, after))


def difference() -> float:
    """Return how far matrices, some without a row here, are from those made orthogonal in one process."""
    rank, processes, largest = dist.get_rank(), dist.get_world_size(), 0.0
    shapes = [(4, 6), (6, 6), (5, 3), (4, 8)]
    for counts in ((4, 1, 5, 2), (1, 1, 1, 1), (2,)):
        generator = torch.Generator().manual_seed(0)
        whole = [torch.randn(count, *shape, generator=generator) for count, shape in zip(counts, shapes, strict=False)]
        alike = shapes[: len(whole)]
        chunks = [math.ceil(rows / processes) for rows, _ in alike]
        own = [slice(rank * chunk, (rank + 1) * chunk) for chunk in chunks]
        expected = [orthogonalize(stack, 3) for stack in whole]
        sharded = orthogonalize_shards([stack[:, rows] for stack, rows in zip(whole, own, strict=True)], alike, 3)
        shared = orthogonalize_shared(whole, alike, 3)
        for found, every, rows, right in zip(sharded, shared, own, expected, strict=True):
            assert found.shape == right[:, rows].shape
            largest = max(largest, *(float(gap.abs().sum()) for gap in (found - right[:, rows], every - right)))
    return largest


def shared_update() -> dict[str, Any]:
    """Return the number of matrices in each iteration of an update here under ddp, and its messages."""
    config = OptimizerConfig(name="muon", ns_steps=2)
    module = torch.nn.Sequential(*(torch.nn.Linear(size, 6) for size in (4, 4, 4, 6, 6, 8)))
    optimizer = make_optimizer(module, dict(module.named_parameters()), config)
    for weight in module.parameters():
        weight.grad = torch.ones_like(weight)
    matrices: list[int] = []
    messages: list[list[Any]] = []

    def counting(stack: Tensor, steps: int) -> Tensor:
        assert steps == 2
        matrices.append(len(stack))
        return orthogonalize(stack, steps)

    with mock.patch.object(muon_shards, "orthogonalize", counting), counted(messages):
        optimizer.step()
    return {"matrices": matrices, "messages": messages}


def main(folder: Path, rank: int, processes: int) -> None:
    """All runs, one after another; the first process writes what came out."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=processes)
    results: dict[str, Any] = {}
    results["muon"] = fitted(folder, folder / "muon", FSDP, optimizer=MUON).rows
    try:
        fitted(folder, folder / "parts", FSDP, until=5, optimizer=MUON)
    except Interrupted:
        results["muon in parts"] = fitted(folder, folder / "parts", FSDP, optimizer=MUON).rows
    results["muon ddp"] = fitted(folder, folder / "muon-ddp", DDP, optimizer=MUON).rows
    try:
        fitted(folder, folder / "parts-ddp", DDP, until=5, optimizer=MUON)
    except Interrupted:
        results["muon ddp in parts"] = fitted(folder, folder / "parts-ddp", DDP, optimizer=MUON).rows
    results["two after one"] = fitted(folder, folder / "one", FSDP, optimizer=MUON).rows
    if processes == 2:
        results["bf16 fsdp"] = fitted(folder, folder / "bf16-fsdp", FSDP, precision="bf16").rows
        results["bf16 ddp"] = fitted(folder, folder / "bf16-ddp", DDP, precision="bf16").rows
        results["step fsdp"], results["step ddp"] = one_step(folder, FSDP), one_step(folder, DDP)
    training = one_update(folder)
    everywhere: list[Any] = [None] * processes
    mine = (in_buckets(training), skipped(training, folder), difference(), shared_update())
    dist.all_gather_object(everywhere, mine)
    names = ("in buckets", "skipped", "differences", "shared updates")
    results |= dict(zip(names, zip(*everywhere, strict=True), strict=True))
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()  # a process that leaves while another still works may abort it
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
