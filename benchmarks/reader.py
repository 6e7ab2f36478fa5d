"""Samples per second of four ways to read the same pre-tokenized rows for training, in one run.

    python -m benchmarks.reader                     20,000 samples, of the paper's size and of the demo's

Every reader delivers shuffled batches of 256 as half-precision tensors, text padded with a mask. All hold the same
bytes: the released layout is given half precision, unpadded text and no mirrored copy, which it does not have, so that
it is compared for its layout and not for its bulk; ours alone also cuts latents into tokens. Each runs without workers
and with two (ours: with the thread that training on a GPU uses) and is listed with the faster of both: medians of
passes over the whole set, interleaved, over a warm page cache. Needs the extra `benchmarks` and 5 GB of disk.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.layouts import BATCH, COLUMN_TYPES, READERS, SIZES, Size, write
from lightgen_core.data.batches import TokenSource
from storage.tables import schema

BAR = 2.0


def main() -> None:
    """Write, measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--samples", type=int, default=20_000)
    options.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options.add_argument("--passes", type=int, default=3, help="timed passes of each reader, after one that is not")
    options.add_argument("--cold", action="store_true", help="drop the files from the page cache before every pass")
    options.add_argument("--folder", type=Path, help="where to write; what is written is removed at the end")
    args = options.parse_args()
    torch.set_num_threads(1)
    for name in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            bytes_ = write(Path(folder), SIZES[name], args.samples)
            print_table(SIZES[name], args.samples, bytes_, seconds(Path(folder), SIZES[name], args))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(f"Opening 1,000,000 rows in 20 files: {opening(Path(folder)):.2f} s")


def seconds(folder: Path, size: Size, args: argparse.Namespace) -> dict[tuple[str, int], float]:
    """Return the median seconds of a pass, by reader and workers."""
    readers = {
        (name, workers): make(folder, size, args.samples, workers)
        for name, (make, _) in READERS.items()
        for workers in (0, 2)
    }
    timings: dict[tuple[str, int], list[float]] = {key: [] for key in readers}
    for epoch in range(args.passes + 1):
        for key, batches in readers.items():
            if args.cold:
                forget(folder)
            gc.collect()
            start, seen, last = time.perf_counter(), [], 0.0
            for ids, *_ in batches(epoch):
                seen.append(ids)
                last = time.perf_counter()  # of the last batch: after it, `datasets` sleeps for 5 s
            if epoch:
                timings[key].append((last - start) / (len(seen) * BATCH) * args.samples)
            found = np.concatenate(seen)
            # Ours goes on where the last pass ended, across epochs; of others each worker may drop a last batch.
            assert len(np.unique(found)) > len(found) - 2 * BATCH and len(found) > args.samples - 3 * BATCH, key
    return {key: statistics.median(times) for key, times in timings.items()}


def forget(folder: Path) -> None:
    """Drop files from the page cache, so that the next pass reads the disk."""
    os.sync()
    for file in folder.rglob("*.*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def print_table(size: Size, samples: int, total: int, timings: dict[tuple[str, int], float]) -> None:
    """Print one row per reader at its faster setting, and the verdict on the bar."""
    best = {name: min((0, 2), key=lambda workers: timings[name, workers]) for name in READERS}
    mine, *others = (timings[name, workers] for name, workers in best.items())
    print(f"\n{size.name}: {samples:,} samples of {total / samples / 1024:.1f} KiB, batches of {BATCH}\n")
    print(
        "| reader | workers | samples/s | MB/s | ours is faster by | shuffled |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, (_, shuffled) in READERS.items():
        time_, rate = timings[name, best[name]], samples / timings[name, best[name]]
        workers = "none" if not best[name] else "a thread" if name == "LightGen" else "two"
        cells = (name, workers, f"{rate:,.0f}", f"{rate * total / samples / 1e6:,.0f}", f"{time_ / mine:.1f}", shuffled)
        print(f"| {' | '.join(cells)} |")
    ratio = min(others) / mine
    print(
        f"\nAgainst the best of the others: {ratio:.1f} (bar {BAR}: {'met' if ratio >= BAR else 'missed'})\n",
        flush=True,
    )


def opening(folder: Path) -> float:
    """Return the seconds to open a million tiny rows in row groups of 640."""
    files, rows = [folder / f"tokens-{number:05d}.parquet" for number in range(20)], 50_000
    metadata = {"dtype": "float16", "channels": 1, "height": 2, "width": 2, "text_width": 4}
    values = {"latents": [b"12345678"] * rows, "text": [b"12345678"] * rows, "text_length": [1] * rows}
    for number, file in enumerate(files):
        table = pa.table({"id": range(number * rows, (number + 1) * rows)} | values).select(list(COLUMN_TYPES))
        plain = {"compression": "none", "use_dictionary": False, "row_group_size": 640}
        pq.write_table(table.cast(schema(COLUMN_TYPES, metadata)), file, **plain)
    start = time.perf_counter()
    TokenSource(files, patch=2, batch_size=BATCH, seed=0)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
