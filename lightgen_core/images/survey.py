"""A look at some of the samples of an image set, spread over its files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from lightgen_core.images.image_set import WithPassedOver
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import BadSample, Sample
from lightgen_core.rejected import Rejected

Item = TypeVar("Item")

PARTS = 8
"""Files of which samples are taken."""


@dataclass
class Survey:
    """Content of the sampled part of a set.

    Attributes:
        complete: the sampled part is the whole set.
        decoded: images that were decoded; `sizes` has height and width of those that can be, `unreadable` the others.
    """

    samples: list[Sample] = field(default_factory=list)
    bad_samples: list[BadSample] = field(default_factory=list)
    complete: bool = True
    decoded: int = 0
    sizes: list[tuple[Sample, int, int]] = field(default_factory=list)
    unreadable: list[BadSample] = field(default_factory=list)


def survey(image_set: WithPassedOver, max_pixels: int, *, samples: int, images: int) -> Survey:
    """Look at up to `samples` samples, and decode up to `images` of their images."""
    result = Survey(bad_samples=list(image_set.passed_over))
    parts = image_set.parts()
    chosen = parts if len(parts) <= PARTS else evenly_spaced(parts, PARTS)
    # The set itself is read where it has one part: it also names the images that no row names.
    for part in chosen if len(chosen) > 1 else [image_set.image_set]:
        share = -(-samples // len(chosen))
        found = list(islice(part.samples(), share + 1))
        result.complete &= len(found) <= share
        for sample in found[:share]:
            if isinstance(sample, BadSample):
                result.bad_samples.append(sample)
            else:
                result.samples.append(sample)
    result.complete &= len(chosen) == len(parts)
    _decode(image_set, SafeImageDecoder(max_pixels), result, images)
    return result


def _decode(image_set: WithPassedOver, decoder: SafeImageDecoder, result: Survey, images: int) -> None:
    chosen = evenly_spaced(result.samples, images)
    result.decoded = len(chosen)
    for sample, data in zip(chosen, image_set.read([sample.byte_range for sample in chosen]), strict=True):
        try:
            if isinstance(data, Rejected):
                raise data
            height, width = decoder.decode(data).shape[:2]
            result.sizes.append((sample, height, width))
        except Rejected as error:
            result.unreadable.append(BadSample(sample.key, error.without_frames(), sample.caption))


def evenly_spaced(items: Sequence[Item], count: int) -> Sequence[Item]:
    """Return `count` items at equal distances, in order, or all if there are fewer."""
    if len(items) <= count:
        return items
    return [items[index * len(items) // count] for index in range(count)]
