"""The NVIDIA device, or the cores and their measured speed, that this machine computes with. Loads no torch."""

import time
from pathlib import Path

import numpy as np

MATRIX = 1024
"""Side of the matrices that are multiplied."""


def has_nvidia_device() -> bool:
    """Return whether the driver of an NVIDIA device is there."""
    return Path("/dev/nvidiactl").exists()


def measure_cores() -> float:
    """Return TFLOP/s of a product of two matrices of numpy, the best of three."""
    matrix = np.ones((MATRIX, MATRIX), np.float32)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * MATRIX**3 / best / 1e12
