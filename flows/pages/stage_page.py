"""Markdown page of one stage: its progress, then its result."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from flows.errors import format_error
from flows.pages.markdown import image, quoted, table
from flows.pages.previews import preview
from flows.pages.progress_log import ProgressLog, StageResult
from lightgen_core.report.charts import loss_curve
from lightgen_core.report.data import Curve
from lightgen_core.report.formats import format_bytes, format_duration, humanize_identifier, number, sentence
from storage.manifest import Manifest
from storage.plural import pluralize

CURVES = {"accuracy": 0.5, "loss": None}
"""Training metrics to plot, in order of preference, each with a reference value."""

DOT = " \N{MIDDLE DOT} "


def working_page(stage: str, uri: str, heard: ProgressLog) -> str:
    """Return the page of a running stage."""
    told = [f"### {stage} is at work", _so_far(heard), *_training(list(heard.steps))]
    at = datetime.now(UTC).strftime("%H:%M:%S UTC")
    return "\n\n".join([*told, f"Its artifact will be `{uri}`", f"As of {at}; reload the page for newer figures."])


def failed_page(stage: str, uri: str, heard: ProgressLog, error: BaseException) -> str:
    """Return the page of a stage that raised or was stopped."""
    failed = isinstance(error, Exception)  # a signal is none
    why = quoted(format_error(error)) if failed else "It was told to stop: the run was cancelled, or its worker ended."
    kept = f"What was finished is kept in `{uri}`: run the same again, and it goes on from there."
    return "\n\n".join([f"### {stage} stopped", _so_far(heard, left=False), why, kept, *_training(list(heard.steps))])


def _so_far(heard: ProgressLog, left: bool = True) -> str:
    """Return progress, elapsed time, time left and speed, as far as known."""
    now = time.monotonic()
    spent = f"{format_duration(now - heard.began)} so far"
    if heard.news is None or heard.first is None:
        return f"no count yet{DOT}{spent}"
    (at, news), (first_at, first) = heard.news, heard.first
    told = [f"**{news.done:,} of {pluralize(news.total, news.unit.removesuffix('s'))}** ({heard.percent():.0f} %)"]
    if news.rows is not None:
        told.append(pluralize(news.rows, "row"))
    told.append(spent)
    if left and news.seconds_left is not None and news.done < news.total:
        told.append(f"about {format_duration(max(0.0, news.seconds_left - (now - at)))} left")
    if news.done > first.done and at > first_at:
        told.append(_rate((news.done - first.done) / (at - first_at), news.unit))
    return DOT.join(told)


def _training(steps: Sequence[tuple[int, Mapping[str, float]]]) -> list[str]:
    """Return the curve and newest metrics of a training; empty for other stages."""
    if not steps:
        return []
    newest = table(
        ["figure", "newest"],
        [(humanize_identifier(name), _figure(each)) for name, each in steps[-1][1].items()],
        right=True,
    )
    name = next((name for name in CURVES if name in steps[-1][1]), None)
    points = [(step, figures[name]) for step, figures in steps if name and math.isfinite(figures.get(name, math.nan))]
    if not name or not points:
        return [newest]
    at, values = (np.array(column) for column in zip(*points, strict=True))
    curve = Curve(humanize_identifier(name), at, {name: values.astype(np.float64)}, reference=CURVES[name])
    return [f"**{sentence(humanize_identifier(name))}**", image(humanize_identifier(name), loss_curve(curve)), newest]


def done_page(made: StageResult) -> str:
    """Return the page of a finished stage: counts, times, address and preview."""
    manifest = made.artifact.manifest()
    facts = {humanize_identifier(name): number(count) for name, count in manifest.counts.items()} | {
        "time": format_duration(manifest.timings["seconds"]),
        "throughput": _throughput(manifest),
        "device time": format_duration(manifest.device_seconds),
        "size": f"{format_bytes(sum(file.bytes for file in manifest.files))}, {pluralize(len(manifest.files), 'file')}",
    }
    counts = table(facts, [facts.values()])
    return "\n\n".join([f"### {made.artifact.stage} is done", counts, f"`{made.artifact.uri}`", *preview(made)])


def _throughput(manifest: Manifest) -> str:
    """Return a stage's throughput: steps of a training, else rows."""
    unit = "steps" if "steps" in manifest.counts else "rows"
    return _rate(manifest.counts[unit] / max(manifest.timings["seconds"], 1e-3), unit)


def _rate(each_second: float, unit: str) -> str:
    return f"{number(each_second)} {unit}/s" if each_second >= 0.1 else f"{number(60 * each_second)} {unit}/min"


def _figure(value: float) -> str:
    return number(value) if math.isfinite(value) else str(value)
