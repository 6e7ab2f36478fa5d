"""The report's part on filters: the reasons of dedup's drops, each with examples."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from lightgen_core.filters.verdicts import LOW_SCORE
from lightgen_core.images.codec import decode_image
from lightgen_core.report.data import FilteredImage, FilterReason
from storage.rows import take_rows
from storage.tables import read_table

if TYPE_CHECKING:
    from tasks.report_inputs import RunArtifacts


def filter_reasons(run: "RunArtifacts") -> tuple[FilterReason, ...]:
    """Return the reasons of images that filters, rules on the text-image score or a selection dropped.

    The commonest come first. Examples are spread evenly over an order by value, so that the mildest and the clearest
    case are among them. Needs `synthesis`, `embeddings` and `dedup`.
    """
    by_reason: dict[str, list[dict]] = {}
    for row in _dropped(run):
        by_reason.setdefault(row["reason"], []).append(row)
    chosen = {reason: _spread(rows, run.recipe.report.filtered) for reason, rows in by_reason.items()}
    images = _images(run, [row["id"] for rows in chosen.values() for row in rows])
    return tuple(
        FilterReason(
            reason,
            len(rows),
            tuple(FilteredImage(*images[row["id"]], row["value"], row["threshold"]) for row in chosen[reason]),
        )
        for reason, rows in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _dropped(run: "RunArtifacts") -> list[dict]:
    """Return id, reason, value and threshold of the dropped images that are nobody's duplicate."""
    measured = ["value", "threshold"] if run.recipe.dedup.filters is not None else []
    verdicts = read_table(run.artifacts["dedup"], "^keep", ["id", "reason", *measured, "kept", "duplicate_of"])
    rows = verdicts.filter(pc.and_(pc.invert(verdicts["kept"]), pc.is_null(verdicts["duplicate_of"]))).to_pylist()
    if measured or not rows:
        return rows
    scored = read_table(run.artifacts["embeddings"], "^embeddings", ["id", "score"])
    scores, least = dict(zip(*scored.to_pydict().values(), strict=True)), run.recipe.dedup.min_clip_score
    for row in rows:  # the table has no such columns in recipes without dedup.filters
        value = scores[row["id"]] if row["reason"] == LOW_SCORE else None
        below = value is not None and least is not None and value < least
        row |= {"value": value, "threshold": least if below else None}
    return rows


def _spread(rows: list[dict], count: int) -> list[dict]:
    """Return at most `count` rows, evenly over their order by value."""
    ordered = sorted(rows, key=lambda row: (row["value"] is None, row["value"] or 0.0, row["id"]))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [ordered[place] for place in places.tolist()]


def _images(run: "RunArtifacts", ids: list[int]) -> dict[int, tuple[np.ndarray, str]]:
    """Return image and caption of some images, by id."""
    synthesis = run.artifacts["synthesis"]
    rows = np.flatnonzero(np.isin(read_table(synthesis, "^images", ["id"])["id"].to_numpy(), ids))
    return {
        row["id"]: (decode_image(row["image"]["bytes"]), row["caption"])
        for row in take_rows(synthesis, "^images", rows, ["id", "image", "caption"]).to_pylist()
    }
