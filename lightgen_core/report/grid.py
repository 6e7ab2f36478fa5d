"""A few captions with their pictures as one SVG: what a stage made, at a glance."""

import textwrap
from collections.abc import Iterable

from markupsafe import Markup

from lightgen_core.report.data import Sample, SampleRow
from lightgen_core.report.formats import is_pixel_art, picture_uri
from lightgen_core.report.svg import rect, svg, text

_WIDTH = 800  # user units
_SIDE = 88  # of a picture, as drawn
_GAP = 6  # between pictures of one caption
_BETWEEN = 22  # between captions
_LINE = 14
_LETTER = 6.2  # mean width of one at the caption's font size
_MOST_LINES = 4
_THUMBNAIL = 128  # px; larger pictures are shrunk to this side


def picture_grid(rows: Iterable[SampleRow], most_bytes: int) -> Markup | None:
    """Draw captions with their pictures side by side, as many as fit into so many bytes of encoded pictures.

    Args:
        rows: with equal numbers of pictures; a picture's name stands below it, with its verdict if it has one.

    Returns:
        None where there is no row, or the first alone is larger.
    """
    shown, used = [], 0
    for row in rows:
        uris = [picture_uri(sample.picture, _THUMBNAIL) for sample in row.samples.values()]
        used += sum(map(len, uris))
        if used > most_bytes:
            break
        shown.append((row, uris))
    if not shown:
        return None
    cell = len(shown[0][1]) * (_SIDE + _GAP) - _GAP
    columns = max(1, (_WIDTH + _BETWEEN) // (cell + _BETWEEN))
    parts, top = [], 0
    for start in range(0, len(shown), columns):
        line = shown[start : start + columns]
        said = [_wrapped(row.caption, cell) for row, _ in line]
        named = any(any(row.samples) for row, _ in line)
        below = top + _SIDE + (_LINE + 4 if named else 2)
        for column, ((row, uris), words) in enumerate(zip(line, said, strict=True)):
            left = column * (cell + _BETWEEN)
            parts += _pictures(row, uris, left, top)
            parts += [
                text(left, below + _LINE * (number + 1), each, "caption", "start") for number, each in enumerate(words)
            ]
        top = below + _LINE * max(map(len, said)) + _BETWEEN
    return svg(columns * (cell + _BETWEEN) - _BETWEEN, top - _BETWEEN + 4, f"{len(shown)} captions in pictures", parts)


def _pictures(row: SampleRow, uris: list[str], left: float, top: float) -> list[Markup]:
    parts = []
    for number, ((name, sample), uri) in enumerate(zip(row.samples.items(), uris, strict=True)):
        x = left + number * (_SIDE + _GAP)
        drawn = "pixels" if is_pixel_art(sample.picture) else "smooth"
        parts.append(rect(x, top, _SIDE, _SIDE, "wash"))
        parts.append(
            Markup('<image x="{}" y="{}" width="{}" height="{}" class="{}" href="{}"/>').format(
                x, top, _SIDE, _SIDE, drawn, uri
            )
        )
        parts += _name(name, sample, x, top + _SIDE + _LINE)
    return parts


def _name(name: str, sample: Sample, x: float, y: float) -> list[Markup]:
    if sample.correct is None:
        return [text(x, y, name, "tick", "start")] if name else []
    mark = ("\N{CHECK MARK}", "right") if sample.correct else ("\N{BALLOT X}", "wrong")
    return [text(x, y, mark[0], mark[1], "start"), text(x + 14, y, name, "tick", "start")]


def _wrapped(caption: str, width: float) -> list[str]:
    return textwrap.wrap(
        caption, int(width / _LETTER), max_lines=_MOST_LINES, placeholder=" \N{HORIZONTAL ELLIPSIS}"
    ) or [""]
