"""Training data of the general components: images of any sets, and dead leaves."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter

from lightgen_core.images.codec import resize_square
from lightgen_core.images.image_set import open_image_set
from lightgen_core.images.ordered_map import ordered_map
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.images.sample import Sample
from lightgen_core.rejected import Rejected

MAX_PIXELS = 4_000_000
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

logger = logging.getLogger(__name__)


def load_images(location: str, side: int, threads: int) -> UInt8[np.ndarray, "n side side 3"]:
    """Return all images of a set, or of a folder without captions, as squares of a side, px.

    Images that cannot be decoded, or are of more than MAX_PIXELS, are counted and logged.
    """
    if not Path(location).is_dir():
        return load_captioned(location, side, threads)[0]
    decoded = _decoded(_files(Path(location)), side, threads)
    return np.stack([image for image in _counted(location, decoded) if image is not None])


def load_captioned(location: str, side: int, threads: int) -> tuple[UInt8[np.ndarray, "n side side 3"], list[str]]:
    """Return all images of a set as squares of a side, px, and their captions; others are counted and logged."""
    image_set = open_image_set(location)
    samples = [sample for sample in image_set.samples() if isinstance(sample, Sample)]
    decoded = _decoded(image_set.read([sample.byte_range for sample in samples]), side, threads)
    pairs = zip(_counted(location, decoded), samples, strict=True)
    images, captions = zip(*((image, sample.caption) for image, sample in pairs if image is not None), strict=True)
    return np.stack(images), list(captions)


def _decoded(encoded: Iterable[bytes | Rejected], side: int, threads: int) -> Iterator[np.ndarray | None]:
    decoder = SafeImageDecoder(MAX_PIXELS, side)

    def decode(data: bytes | Rejected) -> np.ndarray | None:
        try:
            return None if isinstance(data, Rejected) else decoder.decode(data)
        except Rejected:
            return None

    return ordered_map(decode, encoded, threads)


def _counted(location: str, decoded: Iterator[np.ndarray | None]) -> list[np.ndarray | None]:
    images = list(decoded)
    failed = sum(image is None for image in images)
    logger.info("%s: %d images, %d that cannot be decoded", location, len(images) - failed, failed)
    return images


def _files(folder: Path) -> Iterator[bytes]:
    """Yield the images in a folder and all folders in it, links left out."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.is_symlink():
            yield path.read_bytes()


def halved(images: UInt8[np.ndarray, "n side side 3"]) -> UInt8[np.ndarray, "n half half 3"]:
    """Return images at half their side, each pixel the mean of four."""
    n, side = images.shape[:2]
    return images.reshape(n, side // 2, 2, side // 2, 2, 3).mean((2, 4)).round().astype(np.uint8)


def resized(images: UInt8[np.ndarray, "n _ _ 3"], side: int) -> UInt8[np.ndarray, "n side side 3"]:
    """Return images at another side, px."""
    return np.stack([resize_square(image, side) for image in images])


def dead_leaves(count: int, side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "n side side 3"]:
    """Draw images of overlapping shapes whose sizes follow a power, with the grain of photographs.

    Their statistics are those of natural images (Lee, Mumford and Huang 2001), and they have no owner.
    """
    return np.stack([_leaves(side, rng) for _ in range(count)])


def _leaves(side: int, rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("RGB", (2 * side, 2 * side), tuple(rng.integers(0, 256, 3).tolist()))
    draw, base = ImageDraw.Draw(canvas), rng.normal(128, 60, 3)
    for _ in range(rng.integers(20, 300)):
        _draw_leaf(draw, 2 * side, base, rng)
    blurred = canvas.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 0, 0.7, 1.5]))))
    image = np.asarray(blurred.resize((side, side), Image.Resampling.BOX), np.float32)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1 / side
    noise = rng.normal(size=(2, side, side // 2 + 1))
    texture = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency ** rng.uniform(0.9, 1.7), s=(side, side))
    grain = 1 + texture[..., None] / texture.std() * rng.uniform(0, 0.25)
    return np.clip(image * grain, 0, 255).astype(np.uint8)


def _draw_leaf(draw: ImageDraw.ImageDraw, side: int, base: np.ndarray, rng: np.random.Generator) -> None:
    radius, (x, y) = min(side, 2.5 / rng.random() ** 0.8 + 1.5), rng.uniform(0, side, 2)
    levels = np.clip(base * rng.uniform(0.3, 1.5) + rng.normal(0, 35, 3), 0, 255)
    color = tuple(levels.astype(int).tolist())
    shape = rng.integers(4)
    if shape == 0:
        flat = radius * rng.uniform(0.3, 1)
        draw.ellipse((x - radius, y - flat, x + radius, y + flat), fill=color)
    elif shape == 1:
        draw.polygon(list(_corners(x, y, radius, rng)), fill=color)
    elif shape == 2:
        draw.line((x, y, *rng.uniform(0, side, 2)), fill=color, width=int(rng.integers(1, 6)))
    else:
        draw.rectangle((x - radius, y - radius * rng.uniform(0.2, 1), x + radius, y + radius / 2), fill=color)


def _corners(x: float, y: float, radius: float, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    start, corners = rng.uniform(0, 2 * np.pi), rng.integers(3, 8)
    for angle in start + np.linspace(0, 2 * np.pi, corners, endpoint=False):
        yield x + radius * np.cos(angle) * rng.uniform(0.5, 1), y + radius * np.sin(angle) * rng.uniform(0.5, 1)
