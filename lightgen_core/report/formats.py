"""Numbers and pictures as a reader meets them on the page."""

import base64
import io
from datetime import UTC, datetime

import numpy as np
from PIL import Image

from lightgen_core.images.codec import encode_png
from lightgen_core.intervals import Interval
from lightgen_core.report.data import Picture

PIXEL_ART = 96
"""Pictures up to this many pixels a side are shown pixel for pixel; larger ones are photographs to the page."""

_THUMBNAIL = 256  # larger pictures are shrunk to this side, px


def picture_uri(picture: Picture, side: int = _THUMBNAIL) -> str:
    """The picture as a data URI: small ones lossless, larger ones as JPEG of `side` px, so that pages stay small."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"found a picture of {picture.dtype} and shape {picture.shape}; expected uint8 (height, width, 3)"
        )
    if is_pixel_art(picture):
        return "data:image/png;base64," + base64.b64encode(encode_png(picture)).decode()
    small = Image.fromarray(picture)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    small.save(sink, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def is_pixel_art(picture: Picture) -> bool:
    """Whether enlarging the picture should keep its pixels square."""
    return max(picture.shape[:2]) <= PIXEL_ART


def number(value: float) -> str:
    """Three significant digits, thousands grouped: 12,345; 0.123; 0.00012."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval(score: Interval) -> str:
    """The ends of a score's interval, 0.71 to 0.77."""
    return f"{score.low:.2f}\N{EN DASH}{score.high:.2f}"


def percent(share: float) -> str:
    """A share as a percentage without decimals where it has two digits or more."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def size(count: int) -> str:
    """A number of bytes: 1.2 MB, in steps of 1,000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"


def duration(seconds: float) -> str:
    """A time span in its two largest units: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def when(moment: str) -> str:
    """A point in time to the minute, in UTC, from ISO 8601."""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def words(name: str) -> str:
    """An identifier as words: two_object is "two object"."""
    return {"color_attr": "color attribution"}.get(name, name.replace("_", " "))


def sentence(phrase: str) -> str:
    """A phrase as a sentence begins with it."""
    return phrase[:1].upper() + phrase[1:]
