"""Vectors and hashes with planted near duplicates, in files that are memory-mapped."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

WIDTH = 768

_PART = 50_000
_TOPICS, _SUBTOPICS = 1000, 20
_SHARE = 0.05

Sampler = Callable[[int], np.ndarray]


class Planted(NamedTuple):
    """Pairs of rows at a threshold or above."""

    row: np.ndarray
    other: np.ndarray


def load(path: Path) -> np.ndarray:
    """Return the vectors as a memory map."""
    return np.load(path, mmap_mode="r")


def write(path: Path, rows: int, kind: str, threshold: float) -> Planted:
    """Write (rows, WIDTH) unit vectors as float32, in random order, and return the planted pairs."""
    rng = np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    originals = rows - int(_SHARE * rows)
    place = rng.permutation(rows)
    sample = _clustered(rng) if kind == "clustered" else _uniform(rng)
    for start in range(0, originals, _PART):
        stop = min(start + _PART, originals)
        out[place[start:stop]] = _unit(sample(stop - start))
    chosen = rng.integers(0, originals, rows - originals)
    towards = (chosen + rng.integers(1, originals, len(chosen))) % originals
    for start in range(0, len(chosen), _PART):
        part = slice(start, start + _PART)
        one, other = out[place[chosen[part]]], out[place[towards[part]]]
        aside = _unit(other - (one * other).sum(axis=1, keepdims=True) * one)
        cosine = rng.uniform(threshold + 1e-3, 1, (len(one), 1)).astype(np.float32)
        out[place[originals:][part]] = _unit(cosine * one + np.sqrt(1 - cosine**2) * aside)
    out.flush()
    return Planted(place[originals:], place[chosen])


def hashes(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, 6, 8) hashes of views, and of each row the earlier row it copies, or -1.

    Signs of Gaussian cosine coefficients against their median, as pHash takes them of images with a 1/f spectrum. One
    row of twenty differs in up to 10 bits of its fourth view from the first view of an earlier row.
    """
    rng = np.random.default_rng(0)
    codes, original = np.empty((rows, 6, 8), np.uint8), np.full(rows, -1)
    for start in range(0, rows, _PART):
        coefficients = rng.standard_normal((min(_PART, rows - start), 6, 64), dtype=np.float32)
        coefficients[..., 0] = 9
        median = np.median(coefficients, axis=-1, keepdims=True)
        codes[start : start + _PART] = np.packbits(coefficients > median, axis=-1)
    copies = np.sort(rng.choice(np.arange(rows // 2 + 4096, rows), int(_SHARE * rows), replace=False))
    original[copies] = rng.integers(0, rows // 2, len(copies))
    bits = np.unpackbits(codes[original[copies], 0], axis=1)
    order = rng.random(bits.shape).argsort(axis=1)
    bits ^= order < rng.integers(0, 11, (len(copies), 1))
    codes[copies, 3] = np.packbits(bits, axis=1)
    return codes, original


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _uniform(rng: np.random.Generator) -> Sampler:
    return lambda count: rng.standard_normal((count, WIDTH), dtype=np.float32)


def _clustered(rng: np.random.Generator) -> Sampler:
    deviation = (np.arange(WIDTH) + 4.0) ** -0.6
    deviation = (deviation / np.linalg.norm(deviation)).astype(np.float32)
    topics = rng.standard_normal((_TOPICS, WIDTH), dtype=np.float32) * deviation
    subtopics = rng.standard_normal((_TOPICS * _SUBTOPICS, WIDTH), dtype=np.float32) * deviation
    mean = rng.standard_normal(WIDTH, dtype=np.float32) * deviation
    popularity = 1 / (np.arange(_TOPICS) + 10)

    def sample(count: int) -> np.ndarray:
        topic = rng.choice(_TOPICS, count, p=popularity / popularity.sum())
        subtopic = topic * _SUBTOPICS + rng.integers(0, _SUBTOPICS, count)
        own = rng.standard_normal((count, WIDTH), dtype=np.float32) * deviation
        return 0.7 * mean / np.linalg.norm(mean) + 0.65 * topics[topic] + 0.45 * subtopics[subtopic] + 0.5 * own

    return sample
