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


def plain(text: str) -> str:
    """Escape untrusted text, such as a caption with HTML, a link or an image.

    Uses backslashes, since the UI shows an entity (`&#58;`) by name rather than as its character.
    """
    return re.sub(r"([!-/:-@[-`{-~])", r"\\\1", " ".join(text.split()))


def quoted(text: str) -> str:
    """Return untrusted lines as an escaped quotation, which wraps at the page's width."""
    return "\n".join(f"> {plain(line)}  " for line in text.splitlines())


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
    if None in scores.values():
        return ["No scorer applies: nothing here can judge pictures of these captions."]
    typed = {who: {name: Interval(**score) for name, score in rows.items()} for who, rows in scores.items()}
    return [_score_table(typed), image("scores", score_bars(typed))]


def _score_table(scores: Mapping[str, Mapping[str, Interval]]) -> str:
    """Return a table of each category's scores and intervals, by student."""
    students = [name for name in STUDENTS if name in scores]
    rows = []
    for category in scores[students[0]]:
        found = [scores[student].get(category) for student in students]
        rows.append(
            [
                humanize_identifier(category),
                *(f"{score.value:.2f} ({interval(score)})" if score else "" for score in found),
            ]
        )
    return table(["score (95 % interval)", *(STUDENTS[student] for student in students)], rows, right=True)
