"""CPU time of this process and of all that it starts, as the system tells from outside, sampled."""

import os
import threading
import time
from pathlib import Path
from typing import Self

TICK = 1 / os.sysconf("SC_CLK_TCK")


class SampledCpu:
    """A context manager; `seconds` afterwards is what all processes took meanwhile, and `seen` when each was there."""

    def __enter__(self) -> Self:
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self.seen: dict[int, tuple[float, float]] = {}
        self._ended = threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()

    @property
    def seconds(self) -> float:
        """CPU seconds of all; of a process that was there at the start those since then."""
        return sum(last - self._first[pid] for pid, last in self._last.items())

    def _run(self) -> None:
        while not self._ended.wait(0.04):
            self._sample()

    def _sample(self) -> None:
        found = _processes()
        family = {os.getpid()}
        while more := {pid for pid, (parent, _) in found.items() if parent in family} - family:
            family |= more
        for pid in family & found.keys():
            now = time.time()
            self._first.setdefault(pid, found[pid][1] if not self.seen else 0.0)
            self._last[pid] = found[pid][1]
            self.seen[pid] = self.seen.get(pid, (now, now))[0], now


def _processes() -> dict[int, tuple[int, float]]:
    """Return parent and CPU seconds of every process of the system."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found[int(path.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) * TICK
    return found
