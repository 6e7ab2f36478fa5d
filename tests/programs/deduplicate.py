"""Deduplicates vectors: `python -m tests.programs.deduplicate FOLDER KILL`.

It kills itself when KILL rows are decided; 0: never. Verdicts go into `duplicate_of.npy`.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from lightgen_core.dedup import greedy
from lightgen_core.dedup.config import DedupConfig
from lightgen_core.dedup.images import find_duplicates
from tests.factories.vectors import unit

POOR = DedupConfig(threshold=0.75, index="IVF32,Flat", search_recall=0.1)
"""A search that overlooks many pairs, so that a difference in what it overlooks shows."""


def near_vectors() -> np.ndarray:
    """Return 1,500 vectors, a third of which are near others."""
    rng = np.random.default_rng(3)
    base = unit(rng.normal(size=(1000, 64)))
    return np.concatenate([base, unit(base[:500] + 0.1 * rng.normal(size=(500, 64)))])


def main(folder: str, last: str) -> None:
    greedy.BLOCK = 128
    vectors = near_vectors()

    def die(rows: int) -> None:
        if rows == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    ids = range(len(vectors))
    found = find_duplicates(vectors, None, np.zeros(len(ids)), ids, POOR, folder=Path(folder), on_progress=die)
    np.save(Path(folder) / "duplicate_of.npy", [-1 if other is None else other for other in found.duplicate_of])


if __name__ == "__main__":
    main(*sys.argv[1:])
