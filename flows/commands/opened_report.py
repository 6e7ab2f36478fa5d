"""A report as `lightgen open` shows it: with the ablations of its student, and the run before beside it."""

import logging
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.ablations_of import ablations_of
from flows.commands.compare import changed_fields, paired_difference, shared_stages
from flows.commands.side import Side, first_rows, read_images, run_before, side_of_artifact
from storage.artifact import Artifact, CorruptArtifact

if TYPE_CHECKING:
    from lightgen_core.intervals import Interval
    from lightgen_core.report.comparison import ChangedField, ComparedScore, Comparison
    from lightgen_core.report.data import SampleRow

IMAGES_SHOWN = 24
"""Captions whose images are shown side by side, at most."""

log = logging.getLogger("lightgen")


def page_to_open(report: Artifact, scratch: Path) -> Path:
    """Return the page of a finished report: a copy in `scratch` that also shows what else the store knows of it.

    These are the ablations of its student and the run before. The store's own page stays as it is: its bytes follow
    from the report's key, which knows no other run.
    """
    page = report.local("report.html", scratch / "inputs")
    ablations, comparison = ablations_of(report), _comparison(report)
    if not ablations and comparison is None:
        return page
    from lightgen_core.report.ablations import insert_ablations
    from lightgen_core.report.comparison import insert_comparison

    text = page.read_text(encoding="utf-8")
    text = insert_ablations(text, ablations) if ablations else text
    text = insert_comparison(text, comparison) if comparison else text
    opened = scratch / "opened" / f"{report.key}.html"
    opened.parent.mkdir(parents=True, exist_ok=True)
    model = (page.parent / "model").absolute().as_uri()
    opened.write_text(text.replace('href="model/"', f'href="{model}/"'), encoding="utf-8")
    return opened


def _comparison(report: Artifact) -> "Comparison | None":
    """Return the comparison with the run before; None if there is none, or, with a warning, if it cannot be read."""
    from pyarrow import ArrowException

    try:
        return compare_with_run_before(report)
    except (CorruptArtifact, ArrowException) as error:
        log.warning("the run before is not shown beside this one: %s", error)
        return None


def compare_with_run_before(report: Artifact) -> "Comparison | None":
    """Return the comparison of a report's student with that of the run before; None for the first of its name.

    Raises:
        CorruptArtifact: samples of one of the evaluations cannot be read.
    """
    from lightgen_core.report.comparison import Comparison

    earlier = run_before(report)
    if earlier is None:
        return None
    a, b = side_of_artifact("before", earlier), side_of_artifact("now", report)
    samples, changed = _samples(a, b)
    return Comparison(
        recipe=b.lineage.recipe,
        before=earlier.key[:8],
        now=report.key[:8],
        made=earlier.manifest().created_at,
        fields=_fields(a, b),
        scores=_scores(a, b),
        shared=shared_stages(a.lineage, b.lineage),
        samples=samples,
        changed=changed,
    )


def _fields(a: Side, b: Side) -> "list[ChangedField]":
    from lightgen_core.report.comparison import ChangedField

    changes = changed_fields(a.lineage, b.lineage)
    return [ChangedField(name, *map(_text, values)) for name, values in changes.items()]


def _text(value: Any) -> str:
    return "\N{EN DASH}" if value is None else textwrap.shorten(str(value), 80, placeholder=" ...")


def _scores(a: Side, b: Side) -> "list[ComparedScore]":
    """Return a row for each category; none unless both students have scores."""
    from lightgen_core.report.comparison import ComparedScore

    if not a.scores or not b.scores:
        return []
    change = paired_difference(a, b) or {}
    return [
        ComparedScore(name, *(_interval(table.get(name)) for table in (a.scores, b.scores, change)))
        for name in dict.fromkeys((*b.scores, *a.scores))
    ]


def _interval(score: dict[str, Any] | None) -> "Interval | None":
    from lightgen_core.intervals import Interval

    return Interval(**score) if score else None


def _samples(a: Side, b: Side) -> "tuple[list[SampleRow], int | None]":
    """Return both images of captions that both were evaluated on, and the number of those judged otherwise."""
    from lightgen_core.report.data import SampleRow

    if a.evaluation is None or b.evaluation is None:
        return [], None
    before, now = first_rows(a), first_rows(b)
    captions = [caption for caption in now if caption in before]
    judged = all(found[caption]["correct"] is not None for found in (before, now) for caption in captions)
    otherwise = {caption for caption in captions if before[caption]["correct"] != now[caption]["correct"]}
    shown = sorted(captions, key=lambda caption: caption not in otherwise)[:IMAGES_SHOWN]
    images = [read_images(side, [rows[caption] for caption in shown]) for side, rows in ((a, before), (b, now))]
    rows = [
        SampleRow(now[caption]["category"], caption, {"before": first, "now": second})
        for caption, first, second in zip(shown, *images, strict=True)
    ]
    return rows, len(otherwise) if judged and captions else None
