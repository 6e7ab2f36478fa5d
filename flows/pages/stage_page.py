"""Markdown page of one stage: its progress, then its result."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from flows.errors import format_error
from flows.pages.markdown import image, quote, table
from flows.pages.previews import newest_previews, preview
from flows.pages.progress_log import ProgressLog, StageResult
from lightgen_core.report.charts import loss_curve
from lightgen_core.report.data import Curve
from lightgen_core.report.formats import format_bytes, format_duration, humanize_identifier, number, sentence
from storage.plural import pluralize

CURVES = {"accuracy": 0.5, "loss": None}
"""Training metrics to plot, in order of preference, each with a reference value."""

DOT = " \N{MIDDLE DOT} "
BAR_CELLS, FULL, EMPTY = 24, "\N{FULL BLOCK}", "\N{LIGHT SHADE}"


def working_page(stage: str, uri: str, progress: ProgressLog) -> str:
    """Return the page of a running stage."""
    blocks = [f"### {stage} is at work", _describe_progress(progress), *_plot_training(list(progress.steps))]
    blocks += newest_previews(list(progress.previews.values()))
    now = datetime.now(UTC).strftime("%H:%M:%S UTC")
    return "\n\n".join([*blocks, f"Its artifact will be `{uri}`", f"As of {now}; reload the page for newer figures."])


def failed_page(stage: str, uri: str, progress: ProgressLog, error: BaseException) -> str:
    """Return the page of a stage that raised or was stopped."""
    reason = "It was told to stop: the run was cancelled, or its worker ended."
    if isinstance(error, Exception):  # a signal is none
        reason = quote(format_error(error))
    kept = f"What was finished is kept in `{uri}`: run the same again, and it goes on from there."
    blocks = [f"### {stage} stopped", _describe_progress(progress, left=False), reason, kept]
    return "\n\n".join([*blocks, *_plot_training(list(progress.steps))])


def _describe_progress(progress: ProgressLog, left: bool = True) -> str:
    """Return progress, elapsed time, time left and speed, as far as known."""
    now = time.monotonic()
    elapsed = f"{format_duration(now - progress.started)} so far"
    if progress.latest is None or progress.first is None:
        return f"no count yet{DOT}{elapsed}"
    (at, last), (first_at, first) = progress.latest, progress.first
    filled = math.floor(progress.percent() / 100 * BAR_CELLS)
    bar = f"`{FULL * filled}{EMPTY * (BAR_CELLS - filled)}`"
    parts = [
        f"{bar} **{last.done:,} of {pluralize(last.total, last.unit.removesuffix('s'))}** ({progress.percent():.0f} %)"
    ]
    if last.rows is not None:
        parts.append(pluralize(last.rows, "row"))
    parts.append(elapsed)
    if left and last.seconds_left is not None and last.done < last.total:
        parts.append(f"about {format_duration(max(0.0, last.seconds_left - (now - at)))} left")
    if last.done > first.done and at > first_at:
        parts.append(_rate((last.done - first.done) / (at - first_at), last.unit))
    return DOT.join(parts)


def _plot_training(steps: Sequence[tuple[int, Mapping[str, float]]]) -> list[str]:
    """Return the curve and newest metrics of a training; empty for other stages."""
    if not steps:
        return []
    metrics = {name: value for _, row in steps for name, value in row.items()}  # not every row holds every one
    cells = [
        (humanize_identifier(name), number(value) if math.isfinite(value) else str(value))
        for name, value in metrics.items()
    ]
    newest = table(["figure", "newest"], cells, right=True)
    name = next((name for name in CURVES if name in metrics), None)
    points = [(step, row[name]) for step, row in steps if name and math.isfinite(row.get(name, math.nan))]
    if not name or not points:
        return [newest]
    title, (at, values) = humanize_identifier(name), (np.array(column) for column in zip(*points, strict=True))
    held_out = [
        (step, row["validation_loss"]) for step, row in steps if math.isfinite(row.get("validation_loss", math.nan))
    ]
    sparse = {}
    if held_out and name == "loss":
        sparse["held_out"] = (np.array([step for step, _ in held_out]), np.array([loss for _, loss in held_out], float))
    curve = Curve(title, at, {name: values.astype(np.float64)}, reference=CURVES[name], sparse=sparse)
    return [f"**{sentence(title)}**", image(title, loss_curve(curve)), newest]


def done_page(result: StageResult) -> str:
    """Return the page of a finished stage: counts, times, address and preview."""
    manifest = result.artifact.manifest()
    unit = "steps" if "steps" in manifest.counts else "rows"
    throughput = manifest.counts[unit] / max(manifest.timings["seconds"], 1e-3)
    facts = {humanize_identifier(name): number(count) for name, count in manifest.counts.items()} | {
        "time": format_duration(manifest.timings["seconds"]),
        "throughput": _rate(throughput, unit),
        "device time": format_duration(manifest.device_seconds),
        "size": f"{format_bytes(sum(file.bytes for file in manifest.files))}, {pluralize(len(manifest.files), 'file')}",
    }
    counts = table(facts, [facts.values()])
    return "\n\n".join([f"### {result.artifact.label} is done", counts, f"`{result.artifact.uri}`", *preview(result)])


def _rate(per_second: float, unit: str) -> str:
    return f"{number(per_second)} {unit}/s" if per_second >= 0.1 else f"{number(60 * per_second)} {unit}/min"
