"""Formatters of numbers and images, for the report and the UI's pages."""

import base64
import io
from datetime import UTC, datetime

import humanize
import numpy as np
from PIL import Image

from lightgen_core.images.codec import encode_png
from lightgen_core.intervals import Interval
from lightgen_core.report.data import ImageArray

PIXEL_ART = 96
"""Largest side of images that are shown pixel for pixel, px."""

_THUMBNAIL = 256  # larger images are shrunk to this side, px


def image_data_uri(image: ImageArray, side: int = _THUMBNAIL) -> str:
    """Return an image as a data URI: PNG if small, else JPEG of `side` px."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"found an image of {image.dtype} and shape {image.shape}; expected uint8 (height, width, 3)")
    if is_pixel_art(image):
        return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def is_pixel_art(image: ImageArray) -> bool:
    """Return True if enlarging should keep pixels square."""
    return max(image.shape[:2]) <= PIXEL_ART


def number(value: float) -> str:
    """Format to three significant digits, thousands grouped: 12,345; 0.123; 0.00012."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval(score: Interval, decimals: int = 2) -> str:
    """Format the ends of a score's interval: 0.71 to 0.77 with an en dash, or "to" beside a minus."""
    between = " to " if score.low < 0 else "\N{EN DASH}"
    return f"{score.low:.{decimals}f}{between}{score.high:.{decimals}f}"


def percent(fraction: float) -> str:
    """Format a fraction as a percentage, with a decimal only below 10 %."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.0995 or fraction == 0 else f"{100 * fraction:.1f} %"


def format_bytes(count: float) -> str:
    """Format a number of bytes in steps of 1,000: 12 Bytes, 1.2 MB."""
    return humanize.naturalsize(count, format="%.3g")


def format_duration(seconds: float) -> str:
    """Format a time span in its two largest units: 0.4 s, 12 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def when(moment: str) -> str:
    """Format an ISO 8601 time to the minute, in UTC."""
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def humanize_identifier(name: str) -> str:
    """Return an identifier as words: "two object" for two_object."""
    return {"color_attr": "color attribution"}.get(name, name.replace("_", " "))


def sentence(phrase: str) -> str:
    """Capitalize the first letter and keep the rest."""
    return phrase[:1].upper() + phrase[1:]
