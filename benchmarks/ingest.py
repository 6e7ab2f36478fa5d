"""Images per second of what each stage does to images on the CPU, in one thread and in several.

    python -m benchmarks.ingest                     512 px, as many threads as cores

Timed are the functions that the stages call, on images with the 1/f spectrum and the grain of photographs, in turns and
by the median. The last line gives each batch to a device that takes as long for it as the threads do (it sleeps):
decoded one batch ahead, the two times overlap.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from benchmarks.interleaved import seconds, table
from lightgen_core.data.token_rows import image_batches
from lightgen_core.dedup.copy_features import copy_features
from lightgen_core.images.codec import ImageFormat, encode_image
from lightgen_core.images.parallel import decode_batches, encode_images

BAR = 1.8
FORMATS: dict[str, tuple[ImageFormat, int | None]] = {
    "PNG": ("png", None),
    "WebP, lossless": ("webp", None),
    "WebP 95": ("webp", 95),
    "JPEG 95": ("jpeg", 95),
}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=int, default=512, help="side, px")
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    images = [photograph(args.size, number) for number in range(args.images)]
    print(f"{args.images} images of {args.size} px, {args.threads} threads against one, bar {BAR}\n")
    print(compare(dict(workloads(images, args.batch, args.size)), args), "\n")
    print_overlap(images, args)


def photograph(side: int, seed: int) -> np.ndarray:
    """Return an image with the spectrum of photographs and a grain of one level, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1 / side
    noise = rng.normal(size=(4, 2, side, side // 2 + 1))
    brightness, *colors = np.fft.irfft2((noise[:, 0] + 1j * noise[:, 1]) / frequency**1.7, s=(side, side))
    channels = [128 + 40 * brightness / brightness.std() + 20 * color / color.std() for color in colors]
    return np.rint(np.stack(channels, axis=2) + rng.normal(size=(side, side, 3))).clip(0, 255).astype(np.uint8)


def workloads(images: list[np.ndarray], batch: int, size: int) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Yield what stages do to all images, each as a function of the number of threads."""
    for name, (format, quality) in FORMATS.items():
        encode = partial(encode_image, format=format, quality=quality)
        encoded = list(map(encode, images))
        share = sum(map(len, encoded)) / (len(images) * size**2)
        yield f"encode {name}, {share:.2f} bytes a pixel", partial(run_encoding, images, encode)
        yield f"decode {name}, copy features", partial(run_embeddings, encoded, batch)
        yield f"decode {name}, resize to {size // 2} and {size} px", partial(run_tokens, encoded, batch, size)


def run_encoding(images: list[np.ndarray], encode: Callable[[np.ndarray], bytes], threads: int) -> None:
    """Encode as synthesis, pairs and evaluation do."""
    list(encode_images(images, threads, encode))


def run_embeddings(encoded: list[bytes], batch: int, threads: int) -> None:
    """Decode and compute copy features, as embeddings does."""
    list(decode_batches(encoded, range(len(encoded)), batch, threads, lambda image: (image, copy_features(image))))


def run_tokens(encoded: list[bytes], batch: int, size: int, threads: int) -> None:
    """Decode once and resize to two sizes, as tokens does."""
    rows = pa.table({"id": range(len(encoded)), "image": pa.array([{"bytes": data} for data in encoded])})
    list(image_batches(rows, np.zeros(len(rows), bool), batch, ((size // 2,) * 2, (size, size)), threads))


def compare(work: dict[str, Callable[[int], object]], args: argparse.Namespace) -> str:
    """Return a table of images per second with one thread and several."""
    runs = {(name, threads): partial(run, threads) for name, run in work.items() for threads in (1, args.threads)}
    timings = seconds(runs, args.rounds, torch.device("cpu"))
    rows: list[tuple[str, ...]] = []
    for name in work:
        one, several = timings[name, 1], timings[name, args.threads]
        verdict = "met" if one / several >= BAR else "missed"
        rows.append((name, f"{args.images / one:.1f}", f"{args.images / several:.1f}", f"{one / several:.2f}", verdict))
    return table(("work", "images/s, one thread", f"{args.threads} threads", "ratio", "bar"), rows)


def print_overlap(images: list[np.ndarray], args: argparse.Namespace) -> None:
    """Print the seconds of a pass whose batches a device works on for as long as they take to decode."""
    encoded = list(map(encode_image, images))

    def batches() -> Iterator[list[np.ndarray]]:
        return decode_batches(encoded, range(len(encoded)), args.batch, args.threads, lambda image: image)

    def taken(work: Iterable[object], rest: float) -> float:
        start = time.perf_counter()
        for _ in work:
            time.sleep(rest)
        return time.perf_counter() - start

    alone, count = taken(batches(), 0), -(-len(encoded) // args.batch)
    print(f"decoding {alone:.2f} s, device {alone:.2f} s, both one batch ahead {taken(batches(), alone / count):.2f} s")


if __name__ == "__main__":
    main()
