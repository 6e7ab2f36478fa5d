"""The report's parts on captions and images that are missing: each reason with its count and examples."""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lightgen_core.captioning.readers import truncate_for_report
from lightgen_core.report.data import RejectedText, TextReason
from storage.tables import read_table

if TYPE_CHECKING:
    from tasks.report_inputs import RunArtifacts


def rejected_captions(run: "RunArtifacts") -> tuple[TextReason, ...]:
    """Return the reasons of captions that were left out, but for those that repeat another; needs `captions`."""
    dropped = read_table(run.artifacts["captions"], "^dropped", ["caption", "reason", "detail", "duplicate_of"])
    return text_reasons(dropped.filter(pc.is_null(dropped["duplicate_of"])), run.recipe.report.filtered)


def quarantined(run: "RunArtifacts") -> tuple[TextReason, ...]:
    """Return the reasons of images that could not be had; needs `synthesis`."""
    rows = read_table(run.artifacts["synthesis"], "^quarantine", ["caption", "source", "reason", "detail"])
    named = rows.set_column(0, "caption", pc.coalesce(rows["caption"], rows["source"]))
    return text_reasons(named, run.recipe.report.filtered)


def text_reasons(rows: pa.Table, examples: int) -> tuple[TextReason, ...]:
    """Return the reasons of rows with `caption`, `reason` and `detail`, the commonest first, each with its first rows.

    Where the reason is null nothing was left out.
    """
    counts = {item["values"].as_py(): item["counts"].as_py() for item in pc.value_counts(rows["reason"])}
    counts.pop(None, None)
    return tuple(
        TextReason(reason, counts[reason], _examples(rows.filter(pc.equal(rows["reason"], reason)), examples))
        for reason in sorted(counts, key=lambda name: (-counts[name], name))
    )


def _examples(rows: pa.Table, count: int) -> tuple[RejectedText, ...]:
    return tuple(
        RejectedText(*(truncate_for_report(row[name] or "") for name in ("caption", "detail")))
        for row in rows.slice(0, count).select(["caption", "detail"]).to_pylist()
    )
