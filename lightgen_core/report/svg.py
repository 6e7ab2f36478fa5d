"""SVG elements of charts, axis ticks, and charts as standalone images."""

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
    """Return a chart of a size in user units; `title` is its text alternative."""
    title_text = escape(title)
    head = Markup(
        '<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><title>{2}</title>'
    ).format(_short(width), _short(height), title_text)
    return head + Markup("").join(parts) + Markup("</svg>")


@cache
def style() -> str:
    """Return the charts' CSS: light and dark palettes, lines, labels."""
    return (Path(__file__).parent / "charts.css").read_text(encoding="utf-8")


def standalone(chart: Markup, css: str = "") -> Markup:
    """Return a chart on a styled card as an SVG file; `css`: rules beside those of all charts."""
    size = re.match(r'<svg width="([\d.]+)" height="([\d.]+)"', chart)
    assert size, "not a chart that svg() made"
    width, height = (_short(float(side) + 2 * _MARGIN) for side in size.groups())
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="-{2} -{2} {0} {1}">'
        '<style>{3}</style><rect x="-{2}" y="-{2}" width="{0}" height="{1}" rx="10" fill="var(--card)"/>'
        '<g font-family="var(--sans)">'
    ).format(width, height, _MARGIN, Markup(style() + css))
    return head + chart + Markup("</g></svg>")


def image_uri(chart: Markup) -> str:
    """Return a chart on a styled card as a data URI."""
    return file_uri(standalone(chart))


def file_uri(file: str) -> str:
    """Return an SVG file as a data URI.

    Its characters are safe inside Markdown's parentheses, and base64 would make images in it a third larger.
    """
    return "data:image/svg+xml," + quote(file, safe="/:;,=+-.")


def rect(x: float, y: float, width: float, height: float, css_class: str) -> Markup:
    """Return a rectangle of a CSS class."""
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="1.5" class="{}"/>').format(
        _short(x), _short(y), _short(max(width, 0)), _short(height), css_class
    )


def line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Markup:
    """Return a straight line of a CSS class."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        _short(x1), _short(y1), _short(x2), _short(y2), css_class
    )


def text(x: float, y: float, content: str, css_class: str, anchor: str) -> Markup:
    """Return a line of text; `anchor` is start, middle or end."""
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
        _short(x), _short(y), css_class, anchor, content
    )


def path(x: Values, y: Values, css_class: str, points: int = 400) -> Markup:
    """Return a line through points, thinned evenly to `points` of them."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).astype(np.int64))
    # A single point has no length: a tiny step with round caps makes it a dot.
    vertices = [(x[index], y[index]) for index in chosen] if len(chosen) > 1 else [(x[0], y[0]), (x[0] + 0.01, y[0])]
    return Markup('<path d="M{}" class="{}"/>').format(
        " ".join(f"{_short(px)},{_short(py)}" for px, py in vertices), css_class
    )


def legend(entries: Mapping[str, str], x: float, y: float) -> Markup:
    """Return names beside swatches of their CSS classes."""
    parts = []
    for name, css_class in entries.items():
        parts.append(rect(x, y - 4.5, 9, 9, css_class))
        parts.append(text(x + 14, y + 4, name, "label", "start"))
        x += 14 + 7 * len(name) + 16
    return Markup("").join(parts)


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return the linear map of low..high onto start..end."""
    return lambda values: start + (np.asarray(values, np.float64) - low) * (end - start) / (high - low)


def round_ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, at most six."""
    finest = (high - low) / 5 * (1 - 1e-9)
    power = 10.0 ** np.floor(np.log10(finest))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= finest)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # Adding 0 turns a tick of -0 into 0.
    return [float(np.round(step * count, 12)) + 0.0 for count in np.arange(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, only the powers if more than six."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= 6:
            break
    return inside


def _short(value: float) -> str:
    """Format a coordinate to 0.01 units, equal on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
