"""A training step's images per second: ours, ours with its switches, and the released code's, in turns in one run.

    python -m benchmarks.training --released PATH
    python -m benchmarks.training --size large --device cuda --batch 64 --compile --released PATH
    python -m benchmarks.training --size large --batch 64 --roofline H100

The last one runs nothing: it computes the least time of such a step, its kernels counted on tensors without values. On
a GPU whose ceilings are known that time stands beside the measured ones.

Ours is `TrainStep.prepare` and `TrainStep.step`, as in `fit`: step noise, clipping, AdamW and average; on a GPU a
thread prepares ahead, from half precision. All see the same latents and the same text, 128 text tokens without padding,
and mask tokens by the paper's distribution.
"""

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import interleaved, roofline
from benchmarks.released import released_model, training_step
from benchmarks.sizes import GRID, NUM_TEXT_TOKENS, SIZES
from lightgen_core.config import ParallelConfig, TrainConfig
from lightgen_core.data.batches import Batch, prefetch
from lightgen_core.device import pick_device
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.flops import training_flops
from lightgen_core.model.mar import Student, new_student
from lightgen_core.model.patchify import patchify, unpatchify
from lightgen_core.train.compile import apply_compile_and_ac
from lightgen_core.train.pretrain import MaskedDenoisingCriterion
from lightgen_core.train.train_step import TrainStep

TOKENS = GRID[0] * GRID[1]
MEAN_MASK_RATIO = 0.867
"""Mean of the paper's fraction of masked tokens: a normal of mean 1 and deviation 0.25, cut to 0.7 to 1."""
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16 of the accelerators, from their data sheets."""


@dataclass
class SameRows:
    """Token source of one batch for every step."""

    batch_size: int
    rows: Batch

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        return self.rows.rows(start, self.batch_size if stop is None else stop)

    def largest(self, step: int) -> tuple[tuple[int, int], int]:
        return GRID, NUM_TEXT_TOKENS


def main() -> None:
    arguments = _arguments()
    if arguments.roofline:
        _report_roofline(arguments)
        return
    device = pick_device(arguments.device, arguments.threads)
    mar, head = SIZES[arguments.size]
    batch = _batch(arguments.batch, mar.token_width, mar.text_width)
    steps: dict[str, Callable[[], object]] = {}
    memory: dict[str, int] = {}
    stack = contextlib.ExitStack()

    def add(name: str, make: Callable[[], Callable[[], object]]) -> None:
        before = _memory(device, reset=True)
        steps[name] = make()
        steps[name]()
        memory[name] = _memory(device) - before

    if arguments.released:
        latents, text = _latents(batch).to(device), batch.text.float().to(device)

        def theirs() -> Callable[[], object]:
            model = released_model(arguments.released, mar, head, GRID, NUM_TEXT_TOKENS, device)
            config = TrainConfig()
            return training_step(model, latents, text, config.optimizer, config.ema_decay)

        add("released code", theirs)
    if device.type == "cpu":  # on a GPU one student beside the released code is what fits
        add("ours, fp32", lambda: _ours(new_student(mar, head, seed=0), batch, "fp32", device))
    add("ours, bf16", lambda: _ours(new_student(mar, head, seed=0), batch, "bf16", device))
    if arguments.compile:

        def compiled() -> Callable[[], object]:
            student = new_student(mar, head, seed=0)
            stack.enter_context(apply_compile_and_ac(student, ParallelConfig(compile=True)))
            return _ours(student, batch, "bf16", device)

        add("ours, bf16, compiled", compiled)
    with stack:
        seconds = interleaved.seconds(steps, arguments.rounds, device)
    _report(arguments, seconds, memory, device)


def _ours(student: Student, batch: Batch, precision: str, device: torch.device) -> Callable[[], object]:
    """Return a training step on the same rows, read ahead in a thread on a GPU, as in `fit`."""
    config = TrainConfig.model_validate({"precision": precision, "batch_size": len(batch.ids)})
    criterion = MaskedDenoisingCriterion(
        student.mar.config.token_width, get_objective(student.head.config.objective), config
    )
    train_step = TrainStep(student.train(), criterion, seed=0, device=device)
    prepare = partial(train_step.prepare, source=SameRows(len(batch.ids), batch))
    batches = map if device.type == "cpu" else prefetch
    prepared = enumerate(batches(prepare, range(config.steps)))
    return lambda: train_step.step(*next(prepared))


def _batch(images: int, token_width: int, text_width: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(images, token_width // 4, 2 * GRID[0], 2 * GRID[1], generator=generator)
    text = torch.randn(images, NUM_TEXT_TOKENS, text_width, generator=generator).half()  # as a set stores it
    return Batch(
        np.arange(images),
        GRID,
        patchify(latents, 2).half(),
        text,
        torch.ones(images, NUM_TEXT_TOKENS, dtype=torch.bool),
    )


def _latents(batch: Batch) -> torch.Tensor:
    return unpatchify(batch.tokens.float(), GRID, batch.tokens.shape[2] // 4, 2)


def _memory(device: torch.device, reset: bool = False) -> int:
    """Return a GPU's bytes in use, resetting the peak (`reset`), or the peak since."""
    if device.type != "cuda":
        return 0
    if reset:
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return torch.cuda.max_memory_allocated(device)


def _report(
    arguments: argparse.Namespace, seconds: dict[str, float], memory: dict[str, int], device: torch.device
) -> None:
    flops = _flops(arguments.size)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {arguments.threads} threads"
    ceilings = next((each for key, each in roofline.CEILINGS.items() if key in name), None)
    least = roofline.seconds(_kernels(arguments), ceilings) if ceilings else None
    peak = arguments.peak_tflops or next((tflops for key, tflops in PEAK_TFLOPS.items() if key in name), None)
    first, rows = next(iter(seconds.values())), list[tuple[str, ...]]()
    for row, taken in seconds.items():
        speed = arguments.batch / taken
        gib = f"{memory[row] / 2**30:.1f}" if device.type == "cuda" else "-"
        mfu = f"{100 * flops * speed / (peak * 1e12):.0f} %" if peak else "-"
        bound = f"{arguments.batch / least:.0f}" if least and row == "ours, bf16" else "-"
        rows.append((row, f"{speed:.2f}", f"{first / taken:.2f}", f"{flops * speed / 1e12:.3f}", mfu, bound, gib))
    print(f"{arguments.size}, batch {arguments.batch}, {name}; medians of {arguments.rounds} steps in turns\n")
    if ceilings:
        print(f"roofline: computed, at {ceilings}\n")
    print(interleaved.table(("step", "images/s", "ratio", "model TFLOP/s", "MFU", "roofline images/s", "GiB"), rows))


def _kernels(arguments: argparse.Namespace) -> list[roofline.Kernel]:
    mar, head = SIZES[arguments.size]
    masked = round(MEAN_MASK_RATIO * TOKENS)
    return roofline.training_kernels(
        mar, head, images=arguments.batch, grid=GRID, masked=masked, text_tokens=NUM_TEXT_TOKENS
    )


def _report_roofline(arguments: argparse.Namespace) -> None:
    """Print the computed least time of an eager step in bf16, by kind of kernel."""
    ceilings, kernels = roofline.CEILINGS[arguments.roofline], _kernels(arguments)
    least = roofline.seconds(kernels, ceilings)
    speed, flops = arguments.batch / least, _flops(arguments.size)
    peak = arguments.peak_tflops or PEAK_TFLOPS[arguments.roofline]
    print(f"{arguments.size}, batch {arguments.batch}, ours, bf16, not compiled; computed for {arguments.roofline}")
    print(f"at {ceilings}\n")
    print(roofline.by_kind(kernels, ceilings))
    print(
        f"\n{len(kernels)} kernels, {1e3 * least:.0f} ms: {speed:.0f} images/s, "
        f"{flops * speed / 1e12:.0f} model TFLOP/s, MFU {100 * flops * speed / (peak * 1e12):.0f} % of {peak:.0f}"
    )
    products = arguments.batch * flops / ceilings.bf16
    print(f"matrix products and attention alone: {arguments.batch / products:.0f} images/s")


def _flops(size: str) -> float:
    """Return the model FLOPs of an image's training step, at the mean mask ratio."""
    mar, head = SIZES[size]
    masked = round(MEAN_MASK_RATIO * TOKENS)
    return training_flops(mar, head, tokens=TOKENS, masked=masked, text_tokens=NUM_TEXT_TOKENS, noise_samples=4)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--batch", type=int, default=8, help="images of a step")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps of each")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile (minutes to compile on a CPU)")
    parser.add_argument(
        "--peak-tflops", type=float, help="bf16 peak of the device, for MFU; known for A100, H100, H200"
    )
    parser.add_argument("--roofline", choices=roofline.CEILINGS, help="run nothing: compute the least time on this GPU")
    parser.add_argument("--released", type=Path, metavar="PATH", help="a checkout of the released code (needs timm)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
