"""Progress of a stage on a terminal: one bar with rate, loss and time left, above which log lines scroll."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from storage.plural import pluralize
from tasks.context.progress import Progress, ProgressCallback, duration_in_words, ignore_progress

PREFECT_STATES = ("Beginning flow run", "Beginning subflow run", "Finished in state")
"""Starts of the lines by which Prefect tells of its own states."""

ABORTED = "Execution was aborted by"
"""Part of the lines that call a run crashed which the user has stopped; the command's last line says that."""


class StderrHandler(logging.StreamHandler):
    """Writes to standard error as it is at that moment: a bar puts itself in its place.

    Lines of Prefect's own states are left out unless `prefect_states` is set; those that a bar shows, while there is
    one.
    """

    prefect_states = False
    bar = False

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    @property
    def stream(self) -> TextIO:
        """Standard error of this moment."""
        return sys.stderr

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        if record.name.startswith("huggingface_hub"):  # it prints its own, beside handing them on
            return False
        if record.name.startswith("prefect.") and not self.prefect_states:
            message = record.getMessage()
            if ABORTED in message or message.startswith(PREFECT_STATES):  # a failure is the command's last line
                return False
        if self.bar and record.levelno <= logging.INFO and getattr(record, "shown_by_bar", False):
            return False
        return bool(super().filter(record))


def show_prefect_states() -> None:
    """Have the lines of Prefect's own states written too."""
    for handler in _handlers():
        handler.prefect_states = True


def _handlers() -> list[StderrHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, StderrHandler)]


@dataclass
class _Speed:
    """The finished rows, or units without rows, of this run: their number a second since the first report."""

    first: tuple[float, int] | None = None

    def rate(self, progress: Progress, now: float) -> str:
        """Return the rate as text; empty at the first report."""
        if (images := progress.metrics.get("images_per_second")) is not None:
            return f"{images:,.3g} images/s"
        count = progress.done if progress.rows is None else progress.rows
        first, before = self.first or (now, count)
        self.first = first, before
        unit = progress.unit if progress.rows is None else "rows"
        return f"{(count - before) / (now - first):,.3g} {unit}/s" if count > before and now > first else ""


def describe_progress(progress: Progress, rate: str, held_out: float | None = None) -> str:
    """Return units, rate, loss, the newest held-out loss and time left, as far as they are known."""
    loss = progress.metrics.get("loss")
    left = progress.seconds_left
    parts = [
        f"{progress.done:,} of {pluralize(progress.total, progress.unit.removesuffix('s'))}",
        rate,
        "" if loss is None else f"loss {loss:.3g}",
        "" if held_out is None else f"held out {held_out:.3g}",
        "" if left is None or progress.done == progress.total else f"{duration_in_words(left)} left",
    ]
    return ", ".join(filter(None, parts))


_waiting = contextlib.ExitStack()
"""The bar of what comes before the first stage."""


@contextlib.contextmanager
def waiting_bar(name: str) -> Iterator[None]:
    """Show a bar without progress until a stage has its own, or the block is left."""
    with _waiting:
        _waiting.enter_context(stage_bar(name))
        yield


@contextlib.contextmanager
def stage_bar(stage: str) -> Iterator[ProgressCallback]:
    """Yield a callback that shows a stage's progress, where standard error is a terminal; elsewhere log lines do."""
    _waiting.close()  # a terminal has room for one
    if not sys.stderr.isatty():
        yield ignore_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(30), TimeElapsedColumn()
    state = TextColumn("{task.fields[state]}", markup=False)
    bars, speed = Bars(*columns, state, console=Console(stderr=True), transient=True, redirect_stdout=False), _Speed()
    held_out: float | None = None
    with bars:
        task = bars.add_task(stage, total=None, state="")

        def show(progress: Progress) -> None:
            nonlocal held_out
            held_out = progress.metrics.get("validation_loss", held_out)
            text = describe_progress(progress, speed.rate(progress, time.monotonic()), held_out)
            bars.update(task, total=progress.total, completed=progress.done, state=text)

        for handler in _handlers():
            handler.bar = True
        try:
            yield show
        finally:
            for handler in _handlers():
                handler.bar = False
