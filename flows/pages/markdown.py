"""Markdown tables, charts and escaped text for the Prefect UI."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from lightgen_core.intervals import Interval
from lightgen_core.report.charts import score_bars
from lightgen_core.report.data import STUDENTS
from lightgen_core.report.formats import humanize_identifier, interval
from lightgen_core.report.svg import image_uri


def escape(text: str) -> str:
    """Escape untrusted text, such as a caption with HTML, a link or an image.

    Uses backslashes, since the UI shows an entity (`&#58;`) by name rather than as its character.
    """
    return re.sub(r"([!-/:-@[-`{-~])", r"\\\1", " ".join(text.split()))


def quote(text: str) -> str:
    """Return untrusted lines as an escaped quotation, which wraps at the page's width."""
    return "\n".join(f"> {escape(line)}  " for line in text.splitlines())


def image(alt: str, chart: Markup) -> str:
    """Return a chart as an image embedded in the Markdown."""
    return f"![{alt}]({image_uri(chart)})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], right: bool = False) -> str:
    """Return a table of Markdown cells; right: align all columns but the first to the right."""
    head = list(head)
    rule = ["---", *["---:" if right else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def scores_markdown(scores: Mapping[str, Any]) -> list[str]:
    """Return a manifest's scores as a table and bars, or a sentence if no scorer applies."""
    typed = {
        student: {name: Interval(**score) for name, score in rows.items()}
        for student, rows in scores.items()
        if rows is not None
    }
    if not typed:
        return ["No scorer applies: nothing here can judge images of these captions."]
    students = [name for name in STUDENTS if name in typed]
    cells = []
    for category in typed[students[0]]:
        row = [typed[student].get(category) for student in students]
        texts = [f"{score.value:.2f} ({interval(score)})" if score else "" for score in row]
        cells.append([humanize_identifier(category), *texts])
    head = ["score (95 % interval)", *(STUDENTS[student] for student in students)]
    return [table(head, cells, right=True), image("scores", score_bars(typed))]
