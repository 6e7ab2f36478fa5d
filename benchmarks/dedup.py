"""Time deduplication against an exact self-join and SemDeDup, on vectors with planted near duplicates.

python -m benchmarks.dedup --rows 200000 [--kind uniform] [--methods ours semdedup exact hashes] [--folder DIR]

Vectors are memory-mapped from a file in the folder (3 KB a row). `clustered` ones resemble CLIP's: a mean cosine of
0.36, nearest neighbours around 0.86, components that fall like a power; `uniform` ones have no structure. One row of
twenty is another row, moved to a cosine between the threshold and 1; such a pair is found if not both rows stay. Each
method is a process of its own; memory is its largest resident set, file pages included. With `--exact-queries` the
exact join answers only so many rows, and its seconds are extrapolated. `hashes` searches six 64-bit hashes a row.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from benchmarks.interleaved import table
from benchmarks.vectors import WIDTH, Planted, hashes, load, write
from lightgen_core.dedup.config import DedupConfig
from lightgen_core.dedup.greedy import BLOCK
from lightgen_core.dedup.hash_index import HashIndex
from lightgen_core.dedup.images import find_duplicates
from lightgen_core.dedup.search import SearchThreads

MAX_CLUSTER = 1000
"""Mean rows of a cluster of SemDeDup; the paper's have 8,800 (50,000 clusters of 440 million)."""


class Outcome(NamedTuple):
    """Rows that stay, (n,) bool, None where not asked; the share of the work done; and what to say of it."""

    kept: np.ndarray | None
    share: float
    note: str


def ours(path: Path, args: argparse.Namespace) -> Outcome:
    """Return the outcome of `find_duplicates`."""
    vectors = load(path)
    config = DedupConfig(threshold=args.threshold)
    scores = np.random.default_rng(1).permutation(len(vectors))
    started = time.monotonic()

    def progress(rows: int) -> None:
        if rows % (50 * BLOCK) == 0:
            print(f"  {rows:,} rows, {time.monotonic() - started:.0f} s", flush=True)

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        result = find_duplicates(
            vectors,
            None,
            scores,
            range(len(vectors)),
            config,
            threads=args.threads,
            folder=Path(folder),
            on_progress=progress,
        )
    found = result.certificate
    low = f"{found.recall.low:.4f}" if found.recall else "none"
    note = f"{found.index[0]}, {found.probes or 'all'} lists; certificate {found.found} of {found.pairs}, from {low}"
    return Outcome(result.kept, 1.0, f"{note}, crowded {found.crowded}")


def exact(path: Path, args: argparse.Namespace) -> Outcome:
    """Return the outcome of faiss' flat index, searched by all rows, or by some."""
    vectors = load(path)
    faiss.omp_set_num_threads(args.threads)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    rows = min(args.exact_queries or len(vectors), len(vectors))
    kept = np.ones(len(vectors), bool)
    for start in range(0, rows, BLOCK):
        limits, _, other = index.range_search(vectors[start : min(start + BLOCK, rows)], args.threshold)
        row = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        for one, two in zip(row[other < row].tolist(), other[other < row].tolist(), strict=True):
            kept[one] &= not kept[two]
    return Outcome(kept if rows == len(vectors) else None, rows / len(vectors), f"{rows:,} rows searched")


def semdedup(path: Path, args: argparse.Namespace) -> Outcome:
    """Return the outcome of k-means and pairwise cosines within each cluster (arXiv 2303.09540, section 3)."""
    vectors = load(path)
    faiss.omp_set_num_threads(args.threads)
    clusters = max(1, len(vectors) // MAX_CLUSTER)
    kmeans = faiss.Kmeans(WIDTH, clusters, niter=20, seed=0, spherical=True)
    kmeans.train(vectors)
    cosine, cluster = (np.concatenate(each) for each in zip(*_nearest(kmeans.index, vectors), strict=True))
    kept = np.ones(len(vectors), bool)
    order = np.lexsort((cosine, cluster))  # farthest from its centroid first: the paper keeps hard examples
    for members in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
        points = vectors[members]
        near = np.tril(points @ points.T >= args.threshold, -1)
        kept[members[near.any(axis=1)]] = False
    return Outcome(kept, 1.0, f"{clusters:,} clusters")


def _nearest(index: faiss.Index, vectors: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    found = (index.search(vectors[start : start + 65_536], 1) for start in range(0, len(vectors), 65_536))
    return [(cosine[:, 0], cluster[:, 0]) for cosine, cluster in found]


def hash_search(path: Path, args: argparse.Namespace) -> Outcome:
    """Return how many of the planted hashes our index finds; each block meets the rows before it."""
    codes, original = hashes(args.rows)
    index, found = HashIndex(10, SearchThreads(args.threads)), 0
    for start in range(0, args.rows, BLOCK):
        block = codes[start : start + BLOCK]
        row, other, _ = index.search(block)
        index.near_within(block)
        found += int((original[start + row] == other).sum())
        index.add(block, np.arange(start, start + len(block)))
    return Outcome(None, 1.0, f"{found:,} of {(original >= 0).sum():,} planted hashes found")


METHODS: dict[str, Callable[[Path, argparse.Namespace], Outcome]] = {
    "ours": ours,
    "semdedup": semdedup,
    "exact": exact,
    "hashes": hash_search,
}


def main() -> None:
    """Write the vectors, run each method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--kind", choices=("clustered", "uniform"), default="clustered")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--exact-queries", type=int, help="rows that the exact join searches; left out: all")
    parser.add_argument("--folder", type=Path, help="where to write; what is written is removed at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "vectors.npy"
        planted = write(path, args.rows, args.kind, args.threshold)
        rows = [_row(name, path, planted, args) for name in args.methods]
    head = ("method", "wall s", "CPU s", "memory, GB", "planted pairs found", "notes")
    print(f"\n{args.rows:,} {args.kind} rows, threshold {args.threshold}, {args.threads} threads\n")
    print(table(head, rows), flush=True)


def _row(name: str, path: Path, planted: Planted, args: argparse.Namespace) -> tuple[str, ...]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(name, path, args, queue))
    process.start()
    outcome, wall, cpu, memory = queue.get()
    process.join()
    found = "" if outcome.kept is None else f"{(~(outcome.kept[planted.row] & outcome.kept[planted.other])).mean():.2%}"
    about = "about " if outcome.share < 1 else ""
    seconds = [f"{about}{value / outcome.share:,.0f}" for value in (wall, cpu)]
    row = (name, *seconds, f"{memory:.1f}", found, outcome.note)
    print(" | ".join(row), flush=True)
    return row


def _measure(name: str, path: Path, args: argparse.Namespace, queue: Any) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = METHODS[name](path, args)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    queue.put((outcome, time.perf_counter() - wall, time.process_time() - cpu, memory))


if __name__ == "__main__":
    main()
