"""The random numbers of images: from each image's own generator first the order of its tokens, then its noises.

So the noise of all iterations can be sampled before the first one. What the host samples is copied from page-locked
memory, so that the host never waits for the device.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from lightgen_core.device import to_device

MAX_BYTES = 1 << 26
"""Noise that is sampled and copied at once, if it is of more than one iteration.

All of it, unless steps are many and ancestral: 100 of them at 512 px take 26 MB an image. The device then begins while
the host samples what comes later.
"""


def sample_orders(
    masked: int | Bool[Tensor, " tokens"], generators: Sequence[Generator]
) -> Int[Tensor, "batch num_masked"]:
    """Sample each image's order of its masked tokens, so many or those where true, with its own generator."""
    where = torch.arange(masked) if isinstance(masked, int) else masked.nonzero()[:, 0]
    return torch.stack([where[torch.randperm(len(where), generator=generator)] for generator in generators])


def sample_noises(
    generators: Sequence[Generator], shapes: Sequence[tuple[int, int]], width: int
) -> Float[Tensor, " values"]:
    """Sample noises of several iterations, (noises of a token, tokens of an image) each, one after the other."""
    sizes = [noises * len(generators) * count * width for noises, count in shapes]
    values = torch.empty(sum(sizes))
    for (noises, count), part in zip(shapes, values.split(sizes), strict=True):
        images = part.view(noises, len(generators), count, width)
        for image, generator in enumerate(generators):
            images[:, image] = torch.randn(noises, count, width, generator=generator)
    return values


def noises_on(
    device: torch.device, generators: Sequence[Generator], shapes: Sequence[tuple[int, int]], width: int
) -> Iterator[Float[Tensor, "noises rows width"]]:
    """Yield the noises of each iteration on a device; rows are image after image."""
    for several in _slices(shapes, MAX_BYTES // (4 * width * len(generators))):
        sizes = [noises * len(generators) * count * width for noises, count in several]
        values = to_device(sample_noises(generators, several, width), device)
        for (noises, count), part in zip(several, values.split(sizes), strict=True):
            yield part.view(noises, len(generators) * count, width)


def _slices(shapes: Sequence[tuple[int, int]], most: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Cut iterations into runs of at most so many noises of an image, one iteration at least."""
    start = total = 0
    for end, (noises, count) in enumerate(shapes):
        if total + noises * count > most and end > start:
            yield shapes[start:end]
            start, total = end, 0
        total += noises * count
    if shapes:
        yield shapes[start:]
