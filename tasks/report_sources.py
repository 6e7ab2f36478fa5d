"""The report's part on sources: what each gave, and its share of training."""

from typing import TYPE_CHECKING

from lightgen_core.report.data import RecaptionCount, SourceRow, SourceTable

if TYPE_CHECKING:
    from tasks.report_inputs import RunArtifacts

_TABLES = (
    ("Teachers", "Images", "synthesis", "images_by_teacher", "teacher"),
    ("Sources of captions", "Captions", "captions", "captions_by_source", "caption_source"),
)
"""Title, unit, stage and metric that count, and column of the shares in training."""


def source_tables(run: "RunArtifacts") -> tuple[SourceTable, ...]:
    """Return a table for teachers and one for sources of captions, where there are several."""
    phases = run.artifacts["pretrain"].manifest().metrics.get("source_shares", [])
    tables = []
    for title, unit, stage, metric, column in _TABLES:
        counts = run.artifacts[stage].manifest().metrics.get(metric, {})
        rows = (
            SourceRow(name, count, tuple(phase[column].get(name, 0.0) for phase in phases))
            for name, count in counts.items()
        )
        tables += [SourceTable(title, unit, tuple(rows))] if counts else []
    return tuple(tables)


def recaption_counts(run: "RunArtifacts") -> tuple[RecaptionCount, ...]:
    """Return the counts of recaptions; empty where none were asked for."""
    found = run.artifacts["synthesis"].manifest().metrics.get("recaptions", {})
    return tuple(RecaptionCount(kind, each["captions"], each["reasons"]) for kind, each in found.items())
