"""Meter of one process: time at work, CPU, a GPU's use and energy, FLOPs, bytes.

A process writes its record again and again while it works, so that a kill loses seconds of it. Nobody else writes that
record, and records are added up afterwards (`tasks/context/spent.py`). Waiting is no work: what is between two shards,
and a launcher that waits for its processes, is left out. Loads no torch.
"""

import contextlib
import datetime
import logging
import os
import platform
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lightgen_core.metering.gpu_meter import GpuMeter, GpuUse

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""Interval at which a process writes its record: what a kill loses of it."""
SAMPLE_SECONDS = 1.0
"""Interval at which the driver of a GPU is asked."""
_JOINED, _SHORT = 0.05, 0.001
"""Seconds between two spells of work that count as one, and of a spell that is not kept."""
_EPOCH = time.time() - time.monotonic()

Save = Callable[[bytes], object]


class ProcessRecord(BaseModel):
    """Expenses of a process on one attempt at a stage, as it was when it last wrote it.

    attempt: id of the record of the process that drives the attempt. is_child: its CPU time becomes that of the
    driver's children when it ends. waited: seconds before it began, for locks and for the device. busy: spells of work,
    as Unix times. cpu_seconds: own ones, and for a child those of its children; child_cpu_seconds: of ended children.
    flops: None where nothing counts them. bytes: given to the store.
    """

    id: str
    attempt: str
    is_child: bool
    host: str
    began: str
    seconds: float
    waited: float
    busy: list[tuple[float, float]]
    cpu_seconds: float
    child_cpu_seconds: float
    flops: float | None
    bytes: int
    gpu: GpuUse | None


class Meter:
    """Measures this process between `start` and `stop`; before that it only counts FLOPs and bytes."""

    def __init__(self, save: Save | None = None, *, attempt: str | None = None, is_child: bool = False) -> None:
        """Prepare a meter.

        Args:
            save: writes the record, each time in place of the one before; None: it is only returned.
            attempt: id of the driving process' record; None: this is that one.
            is_child: this process was started for the attempt, so that all it has spent since its start counts.
        """
        self.id = uuid.uuid4().hex[:16]
        self.waited = 0.0
        self._attempt, self._is_child, self._save = attempt or self.id, is_child, save
        self._spells: list[tuple[float, float]] = []
        self._since: float | None = None
        self._flops: float | None = None
        self._bytes = 0
        self._gpu: GpuMeter | None = None
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure for the length of a block, which is work from its first line to its last."""
        self.start()
        try:
            with self.working():
                yield
        finally:
            self.stop()

    def start(self) -> None:
        """Begin, write the first record, and go on writing it from a thread."""
        age = _process_age() if self._is_child else 0.0
        self._began = _now() - age
        self._cpu = (0.0, 0.0) if self._is_child else _cpu_seconds()
        if age:
            self._add(self._began, _now())
        self.save()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_again, name="meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and write the last record; a second call does nothing."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        self._end()
        self._try_to_save()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work."""
        self._since = _now()
        try:
            yield
        finally:
            self._end()

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """Count the block as waiting, if it is within work."""
        was_working = self._since is not None
        self._end()
        try:
            yield
        finally:
            if was_working:
                self._since = _now()

    def use(self, device: "torch.device") -> None:
        """Count this process' work as work with a device, if that is a GPU; the first one counts."""
        if device.type == "cuda" and self._gpu is None:
            self._gpu = GpuMeter.of(device)

    def count_flops(self, flops: float) -> None:
        """Add floating-point operations."""
        self._flops = (self._flops or 0.0) + flops

    def count_bytes(self, count: int) -> None:
        """Add bytes that were given to the store."""
        self._bytes += count

    def record(self) -> ProcessRecord:
        """Return what was spent since the start."""
        since, now = self._since, _now()  # another thread may end the spell meanwhile
        own, children = (after - before for after, before in zip(_cpu_seconds(), self._cpu, strict=True))
        return ProcessRecord(
            id=self.id,
            attempt=self._attempt,
            is_child=self._is_child,
            host=platform.node(),
            began=datetime.datetime.fromtimestamp(self._began, datetime.UTC).isoformat(),
            seconds=now - self._began,
            waited=self.waited,
            busy=[*self._spells, *([(since, now)] if since is not None else [])],
            cpu_seconds=own + (children if self._is_child else 0.0),
            child_cpu_seconds=0.0 if self._is_child else children,
            flops=self._flops,
            bytes=self._bytes,
            gpu=self._gpu.use if self._gpu else None,
        )

    def save(self) -> None:
        """Write the record."""
        if self._save is not None:
            self._save(self.record().model_dump_json().encode())

    def _try_to_save(self) -> None:
        try:
            self.save()
        except Exception as error:  # a store of any kind; the work itself must not end for its ledger
            logger.warning("what this process spends could not be recorded, and is tried again: %s", error)

    def _write_again(self) -> None:
        written = time.monotonic()
        while not self._ended.wait(SAMPLE_SECONDS):
            if self._gpu is not None:
                self._gpu.sample(working=self._since is not None)
            if time.monotonic() - written >= FLUSH_SECONDS:
                self._try_to_save()
                written = time.monotonic()

    def _end(self) -> None:
        since, self._since = self._since, None
        if since is not None:
            self._add(since, _now())

    def _add(self, start: float, end: float) -> None:
        if self._spells and start - self._spells[-1][1] <= _JOINED:
            self._spells[-1] = (self._spells[-1][0], end)
        elif end - start >= _SHORT:
            self._spells.append((start, end))


def save_to(folder: Path) -> Save:
    """Return a function that writes a record into a folder, as a file of this process."""
    path = folder / f"{uuid.uuid4().hex[:16]}.json"

    def save(record: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(record)
        partial.replace(path)

    return save


def _now() -> float:
    """Return the Unix time, without the jumps of a clock that is set."""
    return _EPOCH + time.monotonic()


def _cpu_seconds() -> tuple[float, float]:
    """Return the CPU seconds of this process, and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def _process_age() -> float:
    """Return the seconds since this process was started; 0 where the system does not say."""
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
