"""Charts as inline SVG, coloured by the page's light and dark CSS."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from lightgen_core.intervals import Interval
from lightgen_core.report.data import STUDENTS, Curve, StageRow
from lightgen_core.report.formats import format_duration, humanize_identifier, number, percent
from lightgen_core.report.svg import Scale, Values, legend, line, log_ticks, path, rect, round_ticks, scale, svg, text

_WIDTH = 440  # user units; the page scales a chart to its column
_LEGEND_ROW = 3  # students that fit beside each other above the bars
_DECADE = 8.0  # from this ratio of largest to smallest value on, a curve's axis is logarithmic


def score_bars(scores: Mapping[str, Mapping[str, Interval]]) -> Markup:
    """Draw a bar with its interval per category and student."""
    students = [name for name in STUDENTS if name in scores]
    categories = list(scores[students[0]])
    left, bar, pad = 122, 9, 14
    group = len(students) * (bar + 2) + pad
    rows_of_legend = [students[start : start + _LEGEND_ROW] for start in range(0, len(students), _LEGEND_ROW)]
    first = 18 + 16 * len(rows_of_legend)
    height = group * len(categories) + first + 14
    x = scale(0, 1, left, _WIDTH - 14)
    parts = [
        legend({STUDENTS[name]: f"fill-{name}" for name in names}, left, 10 + 16 * number)
        for number, names in enumerate(rows_of_legend)
    ]
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(float(x(fraction)), first - 8, float(x(fraction)), height - 20, "grid"))
        parts.append(text(float(x(fraction)), height - 5, f"{fraction:g}", "tick", "middle"))
    for row, category in enumerate(categories):
        top = first + row * group
        css_class = "label strong" if category == "overall" else "label"
        parts.append(text(left - 10, top + (group - pad) / 2 + 3, humanize_identifier(category), css_class, "end"))
        for turn, student in enumerate(students):
            if category in scores[student]:
                at = top + turn * (bar + 2)
                parts += _bar_with_interval(scores[student][category], f"fill-{student}", x, at, bar)
    summary = "; ".join(
        f"{humanize_identifier(category)} "
        + ", ".join(f"{name} {scores[name][category].value:.2f}" for name in students if category in scores[name])
        for category in categories
    )
    return svg(_WIDTH, height, f"Scores with 95 % intervals: {summary}", parts)


def loss_curve(curve: Curve) -> Markup:
    """Draw raw values faintly, their running mean, and a dashed reference line."""
    steps, lines = _checked(curve)
    smooth = {name: running_mean(values) for name, values in lines.items()} if curve.smooth else lines
    seldom = {name: (at, values) for name, (at, values) in curve.sparse.items() if len(at)}
    shown = [values for _, values in seldom.values()]
    low, high, logarithmic = _limits([*lines.values(), *shown], [*smooth.values(), *shown], curve.reference)
    left, right, top, bottom = 50, _WIDTH - 18, 30, 216
    first, last = (0.0 if steps[0] <= 0.1 * steps[-1] else steps[0]), max(steps[-1], steps[0] + 1)
    x = scale(first, last, left, right)
    flat = scale(np.log(low), np.log(high), bottom, top) if logarithmic else scale(low, high, bottom, top)

    def y(values: npt.ArrayLike) -> Values:
        inside = np.clip(np.asarray(values, np.float64), low, high)
        return flat(np.log(inside) if logarithmic else inside)

    parts = []
    for tick in log_ticks(low, high) if logarithmic else round_ticks(low, high):
        at = float(y(tick))
        parts.append(line(left, at, right, at, "zero" if tick == 0 and low < 0 else "grid"))
        parts.append(text(left - 8, at + 4, f"{tick:g}", "tick", "end"))
    for tick in round_ticks(first, last):
        parts.append(text(float(x(tick)), bottom + 18, f"{tick:,.0f}", "tick", "middle"))
    parts.append(
        text(right, bottom + 34, "step" + (" (vertical axis logarithmic)" if logarithmic else ""), "tick", "end")
    )
    if curve.reference is not None:
        parts.append(line(left, float(y(curve.reference)), right, float(y(curve.reference)), "reference"))
    for turn, name in enumerate(lines):
        if curve.smooth:
            parts.append(path(x(steps), y(lines[name]), f"raw stroke-{turn}"))
        parts.append(path(x(steps), y(smooth[name]), f"mean stroke-{turn}"))
    for turn, (measured, values) in enumerate(seldom.values(), start=len(lines)):
        parts.append(path(x(measured), y(values), f"mean stroke-{turn}"))
    names = [*lines, *seldom]
    if len(names) > 1:
        parts.append(legend({humanize_identifier(name): f"fill-{turn}" for turn, name in enumerate(names)}, left, 10))
    ends = smooth | {name: values for name, (_, values) in seldom.items()}
    summary = ", ".join(f"{name} from {number(ends[name][0])} to {number(ends[name][-1])}" for name in names)
    return svg(_WIDTH, 254, f"{curve.title} over {number(steps[-1])} steps: {summary}", parts)


def time_bars(stages: Sequence[StageRow]) -> Markup:
    """Draw each stage's seconds and its fraction of the total."""
    total = sum(stage.seconds for stage in stages)
    left, row = 92, 24
    x = scale(0, max([stage.seconds for stage in stages] + [1e-9]), 0, _WIDTH - left - 112)
    parts = []
    for turn, stage in enumerate(stages):
        top, width = 4 + turn * row, max(float(x(stage.seconds)), 1.5)
        fraction = f" \N{MIDDLE DOT} {percent(stage.seconds / total)}" if total else ""
        parts.append(text(left - 10, top + 11, stage.stage, "label", "end"))
        parts.append(rect(left, top, width, 14, "fill-time"))
        parts.append(text(left + width + 8, top + 11, format_duration(stage.seconds) + fraction, "tick", "start"))
    summary = ", ".join(f"{stage.stage} {format_duration(stage.seconds)}" for stage in stages)
    return svg(_WIDTH, row * len(stages) + 4, f"Time of each stage: {summary}", parts)


def running_mean(values: Values) -> Values:
    """Return the centred mean over a twentieth of the curve, without lag; shorter at its ends."""
    positions, half = np.arange(len(values)), max(1, len(values) // 40)
    start, stop = np.maximum(positions - half, 0), np.minimum(positions + half + 1, len(values))
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[stop] - total[start]) / (stop - start)


def _bar_with_interval(score: Interval, css_class: str, x: Scale, top: float, bar: float) -> list[Markup]:
    value, low, high = float(x(score.value)), float(x(score.low)), float(x(score.high))
    middle = top + bar / 2
    return [
        rect(float(x(0)), top, value - float(x(0)), bar, css_class),
        line(low, middle, high, middle, "whisker"),
        line(low, middle - 3, low, middle + 3, "whisker"),
        line(high, middle - 3, high, middle + 3, "whisker"),
    ]


def _checked(curve: Curve) -> tuple[Values, dict[str, Values]]:
    steps = np.asarray(curve.steps, np.float64)
    lines = {name: np.asarray(values, np.float64) for name, values in curve.lines.items()}
    if len(steps) == 0 or any(values.shape != steps.shape for values in lines.values()):
        shapes = {name: values.shape for name, values in lines.items()}
        raise ValueError(f"curve {curve.title!r} has {len(steps)} steps and values {shapes}; expected one value a step")
    for name, values in lines.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"curve {curve.title!r}: {name} is not finite at step {steps[~np.isfinite(values)][0]:.0f}"
            )
    return steps, lines


def _limits(raw: list[Values], smooth: list[Values], reference: float | None) -> tuple[float, float, bool]:
    """Return the ends of the vertical axis, for 99 % of raw values, and True if it is logarithmic."""
    ends = [value for values in smooth for value in (values.min(), values.max())]
    ends += [float(value) for values in raw for value in np.quantile(values, [0.005, 0.995])]
    ends += [] if reference is None else [reference]
    low, high = float(min(ends)), float(max(ends))
    if low > 0 and high / low > _DECADE:
        return low / 1.1, high * 1.1, True
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return (0.0 if 0 <= low < margin else low - margin), high + margin, False
