"""Captions with their images as one SVG, for a stage's page."""

import textwrap
from collections.abc import Iterable

from markupsafe import Markup

from lightgen_core.report.data import JudgedImage, SampleRow
from lightgen_core.report.formats import image_data_uri, is_pixel_art
from lightgen_core.report.svg import rect, svg, text

_WIDTH = 800  # user units
_CELL = 88  # of an image
_GAP = 6  # between images of one caption
_CAPTION_GAP = 22  # between captions
_LINE = 14
_CHARACTER_WIDTH = 6.2  # mean width of one at the caption's font size
_MAX_LINES = 4
_THUMBNAIL = 128  # px; larger images are shrunk to this side


def image_grid(rows: Iterable[SampleRow], max_bytes: int) -> Markup | None:
    """Draw captions with their images side by side, with names and verdicts, up to `max_bytes` of encoded images.

    rows: with equal numbers of images. Returns None without a row, or if the first alone is larger.
    """
    shown, used = [], 0
    for row in rows:
        uris = [image_data_uri(sample.image, _THUMBNAIL) for sample in row.samples.values()]
        used += sum(map(len, uris))
        if used > max_bytes:
            break
        shown.append((row, uris))
    if not shown:
        return None
    cell = len(shown[0][1]) * (_CELL + _GAP) - _GAP
    columns = max(1, (_WIDTH + _CAPTION_GAP) // (cell + _CAPTION_GAP))
    parts, top = [], 0
    for start in range(0, len(shown), columns):
        row_of_cells = shown[start : start + columns]
        captions = [_wrapped(row.caption, cell) for row, _ in row_of_cells]
        named = any(any(row.samples) for row, _ in row_of_cells)
        below = top + _CELL + (_LINE + 4 if named else 2)
        for column, ((row, uris), lines) in enumerate(zip(row_of_cells, captions, strict=True)):
            left = column * (cell + _CAPTION_GAP)
            parts += _images(row, uris, left, top)
            parts += [
                text(left, below + _LINE * (number + 1), line, "caption", "start") for number, line in enumerate(lines)
            ]
        top = below + _LINE * max(map(len, captions)) + _CAPTION_GAP
    width, height = columns * (cell + _CAPTION_GAP) - _CAPTION_GAP, top - _CAPTION_GAP + 4
    return svg(width, height, f"{len(shown)} captions in images", parts)


def _images(row: SampleRow, uris: list[str], left: float, top: float) -> list[Markup]:
    parts = []
    for number, ((name, sample), uri) in enumerate(zip(row.samples.items(), uris, strict=True)):
        x = left + number * (_CELL + _GAP)
        css_class = "pixels" if is_pixel_art(sample.image) else "smooth"
        parts.append(rect(x, top, _CELL, _CELL, "wash"))
        element = Markup('<image x="{}" y="{}" width="{}" height="{}" class="{}" href="{}"/>')
        parts.append(element.format(x, top, _CELL, _CELL, css_class, uri))
        parts += _name(name, sample, x, top + _CELL + _LINE)
    return parts


def _name(name: str, sample: JudgedImage, x: float, y: float) -> list[Markup]:
    if sample.correct is None:
        return [text(x, y, name, "tick", "start")] if name else []
    mark = ("\N{CHECK MARK}", "right") if sample.correct else ("\N{BALLOT X}", "wrong")
    return [text(x, y, mark[0], mark[1], "start"), text(x + 14, y, name, "tick", "start")]


def _wrapped(caption: str, width: float) -> list[str]:
    return textwrap.wrap(
        caption, int(width / _CHARACTER_WIDTH), max_lines=_MAX_LINES, placeholder=" \N{HORIZONTAL ELLIPSIS}"
    ) or [""]
