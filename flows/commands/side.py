"""One student of a comparison: lineage, scores, samples; and the student of the run before."""

import json
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checkpoint import Checkpoint, reports_of
from flows.commands.lineage import Lineage, trace_lineage
from flows.errors import UserError
from storage.artifact import Artifact
from storage.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from lightgen_core.report.data import JudgedImage

_SAMPLES = r"^samples.*\.parquet$"


@dataclass(frozen=True)
class Side:
    """One student of a comparison.

    evaluation: its artifact where the images are in a store; None for an exported folder, or before the evaluation.
    """

    name: str
    lineage: Lineage
    evaluation: Artifact | None

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the evaluation; {} before it."""
        manifest = self.lineage.manifests.get("evaluation")
        return manifest.metrics if manifest else {}

    @property
    def scores(self) -> dict[str, Any]:
        """Scores by category; {} if nobody judged."""
        return (self.metrics.get("scores") or {}).get(self.lineage.student) or {}

    def samples(self) -> "pa.Table | None":
        """Return the student's evaluated samples without their images, by prompt and seed; None if not at hand.

        Column `row` is the sample's row in the evaluation.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        from storage.tables import read_table

        if self.evaluation is None:
            return None
        columns = ["student", "prompt", "category", "caption", "seed", "correct"]
        rows = read_table(self.evaluation, _SAMPLES, columns)
        rows = rows.append_column("row", pa.array(range(len(rows)), pa.int64()))
        rows = rows.filter(pc.equal(rows["student"], self.lineage.student))
        return rows.sort_by([("prompt", "ascending"), ("seed", "ascending")])


def side_of(name: str, found: Checkpoint) -> Side:
    """Return the side of a student, or of an exported folder. Raises UserError if its origin is unknown."""
    if found.artifact is None:
        return Side(name, _exported(found.folder), None)
    return side_of_artifact(name, found.artifact)


def side_of_artifact(name: str, artifact: Artifact) -> Side:
    """Return the side of a student in a store; its weights are not read."""
    lineage = trace_lineage(artifact)
    manifest = lineage.manifests.get("evaluation")
    return Side(name, lineage, Artifact(artifact.store, "evaluation", manifest.key) if manifest else None)


def runs_beside(report: Artifact) -> list[tuple[Artifact, Manifest]]:
    """Return the reports of the same recipe's name and of other evaluations, the oldest first."""
    own = report.manifest()
    others = [
        each
        for each in reports_of(report.store, own.config.get("name", ""))
        if each[1].inputs.get("evaluation") != own.inputs.get("evaluation")
    ]
    return sorted(others, key=lambda each: each[1].created_at)


def run_before(report: Artifact) -> Artifact | None:
    """Return the newest report of the recipe's name that is older and of another evaluation, or None."""
    made = report.manifest().created_at
    earlier = [artifact for artifact, manifest in runs_beside(report) if manifest.created_at < made]
    return earlier[-1] if earlier else None


def _exported(folder: Path) -> Lineage:
    """Return the lineage that an exported folder records; its manifests list no files."""
    record = folder / "lineage.json"
    if not record.is_file():
        raise UserError(
            f"{folder} does not say what its student was made from: it is no folder of a store, and has no "
            "lineage.json of `lightgen export`. Name a recipe, STAGE/KEY, or the folder inside its store"
        )
    read = json.loads(record.read_text(encoding="utf-8"))
    stages = {label: Manifest(**fields, files=()) for label, fields in read["stages"].items()}
    return Lineage(read["student"], stages, tuple(read["lost"]))


def first_rows(side: Side) -> dict[str, dict[str, Any]]:
    """Return the first sample of each caption, without its image, categories in turn."""
    samples = side.samples()
    if samples is None:
        raise UserError(f"the images of {side.name} are not at hand: it is an exported folder, or was not evaluated")
    by_category: dict[str, dict[str, Any]] = {}
    for row in samples.to_pylist():
        by_category.setdefault(row["category"], {}).setdefault(row["caption"], row)
    turns = zip_longest(*(rows.values() for rows in by_category.values()))
    return {row["caption"]: row for turn in turns for row in turn if row}


def read_images(side: Side, rows: list[dict[str, Any]]) -> "list[JudgedImage]":
    """Return the images of samples that `first_rows` gave, with their verdicts."""
    import numpy as np

    from lightgen_core.images.codec import decode_image
    from lightgen_core.report.data import JudgedImage
    from storage.rows import take_rows

    assert side.evaluation is not None, "rows came from it"
    numbers = [row["row"] for row in rows]
    taken = take_rows(side.evaluation, _SAMPLES, np.array(sorted(numbers), dtype=np.int64), ["image"])
    encoded = dict(zip(sorted(numbers), (image["bytes"] for image in taken["image"].to_pylist()), strict=True))
    return [JudgedImage(decode_image(encoded[row["row"]]), row["correct"]) for row in rows]
