"""The part of an opened report that shows the store's ablations of its student."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightgen_core.intervals import Interval
from lightgen_core.report.opened import insert_part


@dataclass(frozen=True)
class AblationPoint:
    """Value of each axis, overall score, and the paired difference to the first point; None for that one."""

    values: Sequence[str]
    score: Interval
    change: Interval | None


@dataclass(frozen=True)
class ShownAblation:
    """Scores over the values of one axis or two.

    Attributes:
        key: short key of the artifact.
        made: ISO 8601.
        seeds: trainings of each point.
        intervals: their meaning.
        figure: SVG file.
    """

    key: str
    made: str
    axes: Sequence[str]
    seeds: int
    intervals: str
    points: Sequence[AblationPoint]
    figure: str


def insert_ablations(page: str, ablations: Sequence[ShownAblation]) -> str:
    """Return a report's page with the ablations before its lineage. Raises ValueError if the page is no report."""
    return insert_part(page, "ablations.html.j2", "ablations", "Ablations", ablations=ablations)
