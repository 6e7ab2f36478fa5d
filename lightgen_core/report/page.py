"""`ReportData` -> one HTML page that needs nothing but itself."""

import shlex
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightgen_core.evaluation.published import CATEGORIES, published
from lightgen_core.intervals import Interval
from lightgen_core.report import charts, formats, svg
from lightgen_core.report.data import STUDENTS, ReportData, SampleRow

_HERE = Path(__file__).parent


def render_report(data: ReportData) -> str:
    """Render the page; times and facts of the host are in `#run` only, else equal data give equal text.

    Raises:
        ValueError: an image is not uint8 (height, width, 3), or a curve has no points or infinite ones.
    """
    return (
        page_environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            style=Markup(svg.style() + (_HERE / "page.css").read_text(encoding="utf-8")),
            headline=headline(data.scores, data.differences),
            titles=STUDENTS | {"teacher": "Teacher"},
            students=[name for name in STUDENTS if name in data.scores],
            categories=list(next(iter(data.scores.values()), ())),
            samples=_by_category(data.samples),
            taught=any("teacher" in row.samples for row in data.samples),
            charts=charts,
            published=published(),
            published_categories=list(CATEGORIES),
        )
    )


def page_environment() -> Environment:
    """Return the templates of this folder with the filters that they use."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (
        formats.number,
        formats.interval,
        formats.percent,
        formats.format_bytes,
        formats.format_duration,
        formats.when,
        formats.humanize_identifier,
        formats.sentence,
        formats.image_data_uri,
    )
    environment.filters |= {function.__name__: function for function in filters} | {
        "pixel_art": formats.is_pixel_art,
        "shell": shlex.quote,
        "literal": repr,
        "svg_data_uri": svg.file_uri,
    }
    return environment


def headline(
    scores: Mapping[str, Mapping[str, Interval]], differences: Mapping[str, Mapping[str, Interval]] | None = None
) -> str:
    """Return the overall scores in a sentence or two, empty without scores."""
    overall = {name: scores[name]["overall"] for name in STUDENTS if name in scores}
    clauses = []
    if "pretrain" in overall:
        clauses.append(f"the pre-trained student scores {_score(overall['pretrain'])}")
    if "dpo" in overall:
        clauses.append(f"after DPO it scores {_score(overall['dpo'])}")
    if "few_step" in overall:
        clauses.append(f"with few evaluations of the head for each token it scores {_score(overall['few_step'])}")
    if not clauses:
        return ""
    sentence = "On captions that training never saw, " + ", and ".join(clauses)
    if "shuffled" in overall:
        sentence += f"; the same images judged by another caption score {overall['shuffled'].value:.2f}"
    if change := (differences or {}).get("dpo-pretrain", {}).get("overall"):
        interval = f"{change.low:+.3f} to {change.high:+.3f}"
        sentence += f". The change, on the same captions and seeds, is {change.value:+.3f} ({interval})"
    elif "pretrain" in overall and "dpo" in overall:
        before, after = overall["pretrain"], overall["dpo"].value
        where = "within" if before.low <= after <= before.high else "outside"
        rounded = f"{after - before.value:+.2f}".replace("-0.00", "+0.00")
        sentence += f". The change of {rounded} lies {where} the interval"
    return sentence + "."


def _score(score: Interval) -> str:
    return f"{score.value:.2f} ({formats.interval(score)})"


def _by_category(rows: tuple[SampleRow, ...]) -> list[tuple[str, list[SampleRow]]]:
    """Group rows by category, in order of first appearance."""
    order = list(dict.fromkeys(row.category for row in rows))
    ranked = sorted(rows, key=lambda row: order.index(row.category))
    return [(category, list(group)) for category, group in groupby(ranked, key=lambda row: row.category)]
