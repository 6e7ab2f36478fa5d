"""The few SVG elements that charts are made of, and axes that end on round numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

Values = npt.NDArray[np.float64]
Scale = Callable[[npt.ArrayLike], Values]


def svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """A chart of this size in user units; `title` says the same in words, for those who do not see it."""
    said = escape(title)
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>').format(
        _short(width), _short(height), said, said
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A rectangle of a CSS class."""
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="1.5" class="{}"/>').format(
        _short(x), _short(y), _short(max(width, 0)), _short(height), kind
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a CSS class."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        _short(x1), _short(y1), _short(x2), _short(y2), kind
    )


def text(x: float, y: float, content: str, kind: str, anchor: str) -> Markup:
    """A line of text; `anchor` is start, middle or end."""
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
        _short(x), _short(y), kind, anchor, content
    )


def path(x: Values, y: Values, kind: str, points: int = 400) -> Markup:
    """A line through points, thinned evenly to what can be seen."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).astype(np.int64))
    # A single point has no length: a tiny step with round caps makes it a dot.
    places = [(x[at], y[at]) for at in chosen] if len(chosen) > 1 else [(x[0], y[0]), (x[0] + 0.01, y[0])]
    return Markup('<path d="M{}" class="{}"/>').format(
        " ".join(f"{_short(px)},{_short(py)}" for px, py in places), kind
    )


def legend(entries: Mapping[str, str], x: float, y: float) -> Markup:
    """Name -> CSS class of its colour, side by side."""
    parts = []
    for name, kind in entries.items():
        parts.append(rect(x, y - 4.5, 9, 9, kind))
        parts.append(text(x + 14, y + 4, name, "label", "start"))
        x += 14 + 7 * len(name) + 16
    return Markup("").join(parts)


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """The linear map of low..high onto start..end."""
    return lambda values: start + (np.asarray(values, np.float64) - low) * (end - start) / (high - low)


def round_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within low..high, at most six of them."""
    finest = (high - low) / 5 * (1 - 1e-9)
    power = 10.0 ** np.floor(np.log10(finest))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= finest)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # Adding 0 turns a tick of -0 into 0.
    return [float(np.round(step * count, 12)) + 0.0 for count in np.arange(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within low..high; only the powers where there would be more than six."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= 6:
            break
    return inside


def _short(value: float) -> str:
    """A coordinate to a hundredth of a unit: enough to see, and the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
