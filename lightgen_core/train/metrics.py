"""The log of a run: reproducible metrics, and timings apart from them."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lightgen_core.model.atomic_folder import json_bytes, write_synced


class MetricAverager:
    """Sums of metrics on the device over the steps of one log row."""

    def __init__(self) -> None:
        self.steps = 0
        self._names: list[str] = []
        self._sums: Tensor | float = 0.0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one step's metrics: scalars, the same names at every step."""
        self._names, self.steps = list(metrics), self.steps + 1
        self._sums = self._sums + torch.stack(list(metrics.values())).float()

    def compute(self, over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means since the last call, averaged by `over_processes`. Waits for the device."""
        means = over_processes(torch.as_tensor(self._sums / self.steps)).tolist()
        self.steps, self._sums = 0, 0.0
        return dict(zip(self._names, means, strict=True))


class ThroughputMeter:
    """Seconds and images per second of each log row, in `timings.json` beside the checkpoints."""

    def __init__(self, folder: Path, step: int):
        """Read the timings up to `step`, where the run continues."""
        self._path = Path(folder) / "timings.json"
        earlier = json.loads(self._path.read_bytes())["laps"] if self._path.exists() else []
        self.timings: list[dict] = [lap for lap in earlier if lap["step"] <= step]
        self._since = time.perf_counter()

    def record(self, step: int, images: int) -> dict:
        """End a lap at `step`, `images` images after the last one. Return its row."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self.timings.append({"step": step, "seconds": seconds, "images_per_second": images / seconds})
        return self.timings[-1]

    def save(self) -> None:
        """Write the timings; a kill leaves the old file or the new one."""
        partial = self._path.with_suffix(".partial")
        write_synced(partial, json_bytes({"laps": self.timings}))
        partial.replace(self._path)
