"""The few SVG elements that charts are made of, axes that end on round numbers, and a chart as an image of its own."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

Values = npt.NDArray[np.float64]
Scale = Callable[[npt.ArrayLike], Values]

_MARGIN = 14  # user units around a chart that is an image of its own


def svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """A chart of this size in user units; `title` says the same in words, for those who do not see it."""
    said = escape(title)
    head = Markup(
        '<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><title>{2}</title>'
    ).format(_short(width), _short(height), said)
    return head + Markup("").join(parts) + Markup("</svg>")


@cache
def style() -> str:
    """The CSS of the classes that charts use: a palette for light and dark, lines, labels."""
    return (Path(__file__).parent / "charts.css").read_text(encoding="utf-8")


def image_uri(chart: Markup) -> str:
    """A chart with its style on a card, as a data URI that an <img> or Markdown shows.

    Its characters are safe inside Markdown's parentheses, and base64 would make pictures in it a third larger.
    """
    size = re.match(r'<svg width="([\d.]+)" height="([\d.]+)"', chart)
    assert size, "not a chart that svg() made"
    width, height = (_short(float(side) + 2 * _MARGIN) for side in size.groups())
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="-{2} -{2} {0} {1}">'
        '<style>{3}</style><rect x="-{2}" y="-{2}" width="{0}" height="{1}" rx="10" fill="var(--card)"/>'
        '<g font-family="var(--sans)">'
    ).format(width, height, _MARGIN, Markup(style()))
    return "data:image/svg+xml," + quote(head + chart + Markup("</g></svg>"), safe="/:;,=+-.")


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
