"""The part of an opened report that sets its student beside the one of the run before."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightgen_core.intervals import Interval
from lightgen_core.report.data import SampleRow
from lightgen_core.report.opened import insert_part


@dataclass(frozen=True)
class ComparedScore:
    """Scores of a category, before and now; `change` is paired over captions and seeds."""

    category: str
    before: Interval | None
    now: Interval | None
    change: Interval | None


@dataclass(frozen=True)
class ChangedField:
    """A field of the recipe as both runs had it, as text."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class Comparison:
    """The student of the run before beside that of a report.

    Attributes:
        recipe: name of both.
        before, now: short keys of the reports.
        made: when the one before was made, ISO 8601.
        scores: empty where nobody judges.
        shared: stages of which both have the same artifact.
        samples: images of the same captions, "before" and "now".
        changed: captions whose first image was judged otherwise; None without a judge.
    """

    recipe: str
    before: str
    now: str
    made: str
    fields: Sequence[ChangedField]
    scores: Sequence[ComparedScore]
    shared: Sequence[str]
    samples: Sequence[SampleRow]
    changed: int | None


def insert_comparison(page: str, comparison: Comparison) -> str:
    """Return a report's page with the comparison before its lineage.

    Raises:
        ValueError: the page is no report.
    """
    return insert_part(page, "comparison.html.j2", "before", "Run before", data=comparison)
