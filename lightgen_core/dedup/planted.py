"""Planted copies of ten kinds, under captions of other images, to measure what the search for copies finds."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lightgen_core.dedup.config import CopyConfig
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.copy_features import copy_features, stack_features


def _recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def _cropped(image: Image.Image) -> Image.Image:
    cut = (image.width // 20, image.height // 20)
    return image.crop((*cut, image.width - cut[0], image.height - cut[1]))


def _recoloured(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda level: (level + 60) % 256), saturation, value)).convert("RGB")


def _text_over(image: Image.Image) -> Image.Image:
    image = image.copy()
    place = (image.width // 10, image.height // 2)
    ImageDraw.Draw(image).text(place, "SAMPLE 2024", fill=(0, 0, 0), font_size=max(6, image.width // 10))
    return image


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": _recompressed,
    "resized": lambda image: image.resize((3 * image.width // 4, 3 * image.height // 4), Image.Resampling.BICUBIC),
    "cropped 10 %": _cropped,
    "mirrored": ImageOps.mirror,
    "bordered": lambda image: ImageOps.expand(image, image.width // 10, (30, 30, 30)),
    "recoloured": _recoloured,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 64)),
    "text over it": _text_over,
    "rotated 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
}


@dataclass(frozen=True)
class PlantedCopies:
    """Planted copies found, by kind, of `each`; `wrong` are taken for copies of an image unlike their own."""

    each: int
    found: dict[str, int]
    wrong: int


def find_planted_copies(
    originals: Int[np.ndarray, " planted"],
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    hashes: UInt8[np.ndarray, "n views bytes"],
    thumbnails: UInt8[np.ndarray, "n side side 3"],
    captions: Sequence[str],
    config: CopyConfig,
    seed: int,
) -> PlantedCopies:
    """Plant copies of some images in a set and search it.

    Args:
        originals: rows of the set.
        images: those rows' images.
        hashes, thumbnails, captions: of the set, two images or more.
        seed: of the captions that the copies get.
    """
    size, rng = len(captions), np.random.default_rng(seed)
    planted = [copy_features(np.asarray(make(Image.fromarray(image)))) for make in KINDS.values() for image in images]
    original = np.tile(originals, len(KINDS))
    borrowed = (original + rng.integers(1, size, len(planted))) % size
    more_hashes, more_thumbnails = stack_features(planted)
    words = [*captions, *(captions[row] for row in borrowed)]
    matcher = CopyMatcher(
        np.concatenate([hashes, more_hashes]), np.concatenate([thumbnails, more_thumbnails]), words, config
    )
    later, earlier = matcher.pairs(np.arange(len(words)))
    pairs = set(zip(later.tolist(), earlier.tolist(), strict=True))
    true = [(size + number, row) in pairs for number, row in enumerate(original.tolist())]
    # A copy of a red heart under the caption of a dog is also like a blue heart: no caption explains that difference.
    blind = config.model_copy(update={"related_captions": 1.0})
    alike = set(zip(*CopyMatcher(hashes, thumbnails, captions, blind).pairs(np.arange(size)), strict=True))
    wrong = set()
    for copy, row in pairs:
        if copy >= size > row:
            source = int(original[copy - size])
            if row != source and (max(row, source), min(row, source)) not in alike:
                wrong.add(copy)
    found = np.reshape(true, (len(KINDS), -1)).sum(axis=1).tolist()
    return PlantedCopies(len(images), dict(zip(KINDS, found, strict=True)), len(wrong))
