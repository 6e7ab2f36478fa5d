"""Tables, charts and other people's words in the Markdown that the Prefect UI draws."""

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
    """Return words that are not ours, so that they are only read: a caption may hold HTML, a link or a picture.

    By backslashes, since the UI shows the name of an entity (`&#58;`) rather than its sign.
    """
    return re.sub(r"([!-/:-@[-`{-~])", r"\\\1", " ".join(text.split()))


def quoted(text: str) -> str:
    """Return a text of several lines that is not ours as a quotation, which breaks lines where the page ends."""
    return "\n".join(f"> {plain(line)}  " for line in text.splitlines())


def image(alt: str, chart: Markup) -> str:
    """Return a chart as an image that the Markdown holds in itself."""
    return f"![{alt}]({image_uri(chart)})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], right: bool = False) -> str:
    """Return a table of cells that are Markdown; `right`: all columns but the first are figures."""
    head = list(head)
    rule = ["---", *["---:" if right else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def scores_markdown(scores: Mapping[str, Any]) -> list[str]:
    """Return scores, as manifests hold them, as a table and as bars; a sentence where nobody could judge."""
    if None in scores.values():
        return ["No scorer applies: nothing here can judge pictures of these captions."]
    typed = {who: {name: Interval(**score) for name, score in rows.items()} for who, rows in scores.items()}
    return [_score_table(typed), image("scores", score_bars(typed))]


def _score_table(scores: Mapping[str, Mapping[str, Interval]]) -> str:
    """A row for each category, with every student's score and interval."""
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
