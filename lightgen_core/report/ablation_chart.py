"""Chart of an ablation: the score over the values of an axis, a line for each value of a second one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lightgen_core.intervals import Interval
from lightgen_core.report.svg import Scale, Values, legend, line, path, rect, round_ticks, scale, standalone, svg, text

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 52, 496, 34, 232
_LOGARITHMIC = 4.0  # from this ratio of largest to smallest value on, the horizontal axis is logarithmic
_DODGE = 7.0  # user units between the points of two lines at one value
COLOURS = ("pretrain", "dpo", "sft", "time", "wrong", "shuffled")
"""Variables of the palette in charts.css, in the order of the lines; a seventh line has the first one's again."""

_CSS = "".join(
    f".line-{turn} {{ stroke: var(--{name}); fill: var(--{name}); }} svg path.line-{turn} {{ fill: none; }}\n"
    for turn, name in enumerate(COLOURS)
)


def ablation_chart(
    axes: Sequence[str], points: Sequence[tuple[Sequence[Any], Interval]], score: str = "overall score"
) -> Markup:
    """Draw each point's score with its 95 % interval, as an SVG file.

    Args:
        axes: names of one axis or two.
        points: a value for each axis, and the score. Values that are all numbers have places by their size and are
            joined by a line; others stand side by side.

    Raises:
        ValueError: no points, or another number of axes.
    """
    if not points or len(axes) not in (1, 2):
        raise ValueError(f"found {len(points)} points over {len(axes)} axes; expected points over one axis or two")
    values = list(dict.fromkeys(point[0] for point, _ in points))
    lines = list(dict.fromkeys(point[1] if len(axes) == 2 else "" for point, _ in points))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    x, joined = _horizontal(values, numeric), numeric and len(values) > 1
    y, parts = _vertical([interval for _, interval in points])
    for value in values:
        parts.append(text(x[value], _BOTTOM + 18, _label(value), "tick", "middle"))
    parts.append(text(_RIGHT, _BOTTOM + 36, axes[0], "label", "end"))
    parts.append(text(_LEFT, 12, f"{score}, 95 % intervals", "label", "start"))
    if len(axes) == 2:
        names = {f"{axes[1]} {_label(value)}": f"line-{turn % len(COLOURS)}" for turn, value in enumerate(lines)}
        parts.append(legend(names, _LEFT, _BOTTOM + 58))
    for turn, second in enumerate(lines):
        shift = (turn - (len(lines) - 1) / 2) * _DODGE
        own = [(point[0], interval) for point, interval in points if len(axes) == 1 or point[1] == second]
        own.sort(key=lambda each: x[each[0]])
        css_class = f"line-{turn % len(COLOURS)}"
        if joined:
            across = np.array([x[value] + shift for value, _ in own])
            parts.append(path(across, y([interval.value for _, interval in own]), f"mean {css_class}"))
        for value, interval in own:
            parts += _marker(x[value] + shift, interval, y, css_class)
    summary = "; ".join(f"{' '.join(map(_label, point))}: {interval.value:.3f}" for point, interval in points)
    height = _BOTTOM + (70 if len(axes) == 2 else 42)
    return standalone(svg(_WIDTH, height, f"{score} by {' and '.join(axes)}: {summary}", parts), _CSS)


def _horizontal(values: Sequence[Any], numeric: bool) -> dict[Any, float]:
    """Return the place of each value."""
    inner = (_LEFT + 30, _RIGHT - 30)
    if not numeric or len(values) == 1:
        step = (inner[1] - inner[0]) / max(1, len(values) - 1)
        return {
            value: inner[0] + turn * step if len(values) > 1 else sum(inner) / 2 for turn, value in enumerate(values)
        }
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOGARITHMIC:
        place = scale(np.log(low), np.log(high), *inner)
        return {value: float(place(np.log(value))) for value in values}
    place = scale(low, high, *inner)
    return {value: float(place(value)) for value in values}


def _vertical(intervals: Sequence[Interval]) -> tuple[Scale, list[Markup]]:
    """Return the vertical scale, and its grid."""
    low, high = min(each.low for each in intervals), max(each.high for each in intervals)
    margin = 0.08 * (high - low) or 0.05
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    y = scale(low, high, _BOTTOM, _TOP)
    parts = []
    for tick in round_ticks(low, high):
        at = float(y(tick))
        parts.append(line(_LEFT, at, _RIGHT, at, "grid"))
        parts.append(text(_LEFT - 8, at + 4, f"{tick:g}", "tick", "end"))
    return y, parts


def _marker(at: float, interval: Interval, y: Scale, css_class: str) -> list[Markup]:
    ends: Values = y([interval.low, interval.value, interval.high])
    low, value, high = (float(end) for end in ends)
    return [
        line(at, low, at, high, "whisker"),
        line(at - 3, low, at + 3, low, "whisker"),
        line(at - 3, high, at + 3, high, "whisker"),
        rect(at - 3.5, value - 3.5, 7, 7, css_class),
    ]


def _label(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
