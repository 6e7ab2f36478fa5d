"""The head's modulations apart, as it computes them, and as one product: time and bits on a CPU, a GPU's least time.

python -m benchmarks.modulations [--rounds 9]
"""

import argparse
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import roofline
from benchmarks.fake_cuda.backward import backward
from benchmarks.fake_cuda.mode import CUDA, fake_cuda
from benchmarks.interleaved import seconds, table
from lightgen_core.config import HeadConfig
from lightgen_core.model.blocks import NORM_EPS
from lightgen_core.model.head import TokenDenoiser, modulate

STATES, TOKEN, SAMPLES, MASKED = 1024, 64, 4, 222
"""Widths of states and tokens, noise samples, and masked tokens of an image of the paper's student."""


def forward_merged(head: TokenDenoiser, noisy: Tensor, time: Tensor, embedded: Tensor) -> Tensor:
    """Run the head as `TokenDenoiser.forward_embedded`, with one product for the modulations of all its blocks."""
    activated = functional.silu(time + embedded)
    layers = [owner.modulation for owner in (*head.blocks, head)]
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    parts = functional.linear(activated, weight, bias).split(head.config.width, dim=-1)
    states = head.token_in(noisy)
    for index, block in enumerate(head.blocks):
        shift, scale, gate = parts[3 * index : 3 * index + 3]
        inner = modulate(block.norm(states), shift, scale)  # type: ignore[operator]
        states = states + gate * block.down(functional.silu(block.up(inner)))  # type: ignore[operator]
    inner = functional.layer_norm(states, states.shape[-1:], eps=NORM_EPS)
    return head.out(modulate(inner, *parts[-2:]))


FORWARDS = {"apart": TokenDenoiser.forward_embedded, "one product": forward_merged}


def on_cpu(width: int, depth: int, rows: int, rounds: int) -> tuple[str, ...]:
    """Return a row of the table: milliseconds of forward and backward pass of each, and gradients of other bits."""
    head = TokenDenoiser(HeadConfig(width=width, depth=depth, objective="v"), TOKEN, STATES)
    generator = torch.Generator().manual_seed(0)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.05, generator=generator)
    noisy = torch.randn(SAMPLES, rows, TOKEN, generator=generator)
    timestep = torch.rand(SAMPLES, rows, generator=generator)
    condition = torch.randn(rows, STATES, generator=generator)
    gradients: dict[str, dict[str, Tensor]] = {}

    def run(name: str) -> Callable[[], None]:
        def once() -> None:
            head.zero_grad()
            with mock.patch.object(TokenDenoiser, "forward_embedded", FORWARDS[name]):
                head(noisy, timestep, condition).square().mean().backward()
            gradients[name] = {key: weight.grad for key, weight in head.named_parameters() if weight.grad is not None}

        return once

    taken = seconds({name: run(name) for name in FORWARDS}, rounds, torch.device("cpu"))
    apart, merged = gradients.values()
    differing = sum(not torch.equal(apart[key], merged[key]) for key in apart)
    times = (f"{1e3 * taken[name]:.0f}" for name in FORWARDS)
    return f"{width} x {depth}, {SAMPLES * rows} rows", *times, f"{differing} of {len(apart)}"


def on_gpu(name: str, images: int, ceilings: roofline.Ceilings) -> tuple[str, ...]:
    """Return a row of the table: kernels, least milliseconds and peak of memory of the paper's head in bf16."""
    with fake_cuda() as cuda, mock.patch.object(TokenDenoiser, "forward_embedded", FORWARDS[name]):
        head = cuda.build(lambda: TokenDenoiser(HeadConfig(), TOKEN, STATES))
        rows = images * MASKED
        noisy, timestep = (torch.empty(SAMPLES, rows, *last, device=CUDA) for last in ((TOKEN,), ()))
        condition = torch.empty(rows, STATES, device=CUDA).requires_grad_()
        with cuda.watch(head) as watch:
            with torch.autocast("cuda", torch.bfloat16):
                output = head(noisy, timestep, condition)
            backward(output.float().square().mean(), cuda.saved)
    least = roofline.seconds(watch.kernels, ceilings)
    return f"{name}, {images} images", f"{len(watch.kernels)}", f"{1e3 * least:.2f}", f"{watch.peak / 2**30:.2f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = [on_cpu(*sizes, rounds) for sizes in ((96, 3, 64), (96, 3, 1000), (384, 8, 250))]
    print(table(("head on one CPU thread", "apart, ms", "one product, ms", "gradients of other bits"), rows), "\n")
    computed = [on_gpu(name, images, roofline.CEILINGS["H100"]) for images in (8, 64) for name in FORWARDS]
    print(table(("computed for an H100", "kernels", "least ms", "peak GiB"), computed))


if __name__ == "__main__":
    main()
