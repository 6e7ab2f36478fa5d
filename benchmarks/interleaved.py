"""Interleaved timing of alternatives, so that other load affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Name = TypeVar("Name")


def seconds(alternatives: Mapping[Name, Callable[[], object]], rounds: int, device: torch.device) -> dict[Name, float]:
    """Return median seconds of each alternative over `rounds`, after a warm-up."""
    for run in alternatives.values():
        run()
    taken: dict[Name, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, run in alternatives.items():
            wait_for(device)
            start = time.perf_counter()
            run()
            wait_for(device)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table, aligned for a terminal."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
