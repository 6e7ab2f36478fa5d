"""`lightgen compare`: two students by their recipes, lineage, scores and images."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checkpoint import Checkpoint, find_student, reports_of, student_of
from flows.commands.lineage import Lineage, trace_lineage
from flows.errors import UserError
from flows.folders import require_writable
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from lightgen_core.report.data import JudgedImage

CAPTIONS_SHOWN = 24
"""Captions of the page with images."""
_PAGE_BYTES = 8_000_000  # of encoded images
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


def compare(
    first: str, second: str | None = None, store: str | None = None, output: Path | None = None
) -> dict[str, Any]:
    """Compare two students; return what `lightgen compare --json` prints.

    Args:
        first, second: checkpoints as of `find_student`, or folders that `lightgen export` wrote. Without `second` the
            student of the run before `first` under the same name is compared with `first`.
        output: SVG file for the images of the captions that both were evaluated on.

    Raises:
        UserError: no student, one of unknown origin, no run before, or images that cannot be shown.
    """
    if second is None:
        b = _side(first, find_student(first, store))
        a = _run_before(b, find_student(first, store).artifact)
    else:
        a, b = (_side(name, find_student(name, store)) for name in (first, second))
    samples = [side.samples() for side in (a, b)]
    return {
        "a": _summary(a),
        "b": _summary(b),
        "fields": _fields(a.lineage, b.lineage),
        "stages": _stages(a.lineage, b.lineage),
        "difference": _difference(*samples) if a.scores and b.scores and None not in samples else None,
        "images": str(_write_images(a, b, output)) if output else None,
    }


def _run_before(side: Side, artifact: Artifact | None) -> Side:
    """Return the student of the newest report of the recipe's name that is older, and of another evaluation."""
    if artifact is None or artifact.stage != "report":
        raise UserError(
            f"{side.name} is not the student of a report, which alone knows the name of its recipe: name a second "
            "student to compare it with, such as report/8cf2; `lightgen store ls` lists them"
        )
    own = artifact.manifest()
    recipe, evaluation = own.config["name"], own.inputs["evaluation"]
    others = [each for each in reports_of(artifact.store, recipe) if each[1].inputs.get("evaluation") != evaluation]
    earlier = [each for each in others if each[1].created_at < own.created_at]
    if not earlier:
        later = ", ".join(f"report/{each.key[:8]} of {each.created_at}" for _, each in others)
        raise UserError(
            f"{artifact.store.uri} holds no run of {recipe} before report/{own.key[:8]} of {own.created_at}"
            + (f"; later ones are {later}: name one of them as the second student" if later else "")
        )
    report, manifest = max(earlier, key=lambda each: each[1].created_at)
    return _side(f"report/{manifest.key[:8]} of {manifest.created_at}", student_of(report))


def _side(name: str, found: Checkpoint) -> Side:
    if found.artifact is None:
        return Side(name, _exported(found.folder), None)
    lineage = trace_lineage(found.artifact)
    manifest = lineage.manifests.get("evaluation")
    return Side(name, lineage, Artifact(found.artifact.store, "evaluation", manifest.key) if manifest else None)


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


def _summary(side: Side) -> dict[str, Any]:
    made = [manifest for label, manifest in side.lineage.manifests.items() if label != "evaluation"]
    return {
        "name": side.name,
        "student": side.lineage.student,
        "recipe": side.lineage.recipe or None,
        "scores": side.scores or None,
        "seconds": sum(manifest.timings["seconds"] for manifest in made),
        "device_seconds": sum(manifest.device_seconds for manifest in made),
        "lost": list(side.lineage.lost),
    }


def _fields(a: Lineage, b: Lineage) -> dict[str, list[Any]]:
    """Return the fields of the recipes that differ, those of the first round where there are several."""
    first, second = _config(a), _config(b)
    names = sorted(first.keys() | second.keys())
    return {name: [first.get(name), second.get(name)] for name in names if first.get(name) != second.get(name)}


def _config(lineage: Lineage) -> dict[str, Any]:
    """Return all that entered the keys of a student's stages, as dotted fields."""
    merged: dict[str, Any] = {}
    for manifest in lineage.ordered.values():
        merged = dict(_flattened(manifest.config)) | merged
    return merged


def _flattened(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _stages(a: Lineage, b: Lineage) -> list[dict[str, Any]]:
    """Return the keys of both by label, and whether they share the artifact."""
    first, second = a.ordered, b.ordered
    rows = []
    for label in dict.fromkeys((*first, *second)):
        keys = [each[label].key if label in each else None for each in (first, second)]
        rows.append({"stage": label, "a": keys[0], "b": keys[1], "shared": keys[0] == keys[1]})
    return rows


def _difference(first: "pa.Table", second: "pa.Table") -> dict[str, Any] | None:
    """Return the paired differences of the verdicts, second less first; None unless captions and seeds are the same."""
    import numpy as np

    from lightgen_core.evaluation.prompt import Prompt
    from lightgen_core.evaluation.scores import score_table

    same = ["caption", "seed", "category"]
    if len(first) == 0 or not first.select(same).equals(second.select(same)):
        return None
    rows = first.select(["prompt", "caption", "category"]).to_pylist()
    images = sum(row["prompt"] == rows[0]["prompt"] for row in rows)
    prompts = [Prompt(row["caption"], row["category"], "") for row in rows[::images]]
    verdicts = [np.array(table["correct"].to_pylist(), dtype=np.int8).reshape(-1, images) for table in (first, second)]
    return score_table(verdicts[1] - verdicts[0], prompts, derive_seed(0, "bootstrap"), resamples=2000, paired=True)


def _write_images(a: Side, b: Side, output: Path) -> Path:
    """Write an SVG with both students' images of the same captions side by side."""
    from lightgen_core.report.data import SampleRow
    from lightgen_core.report.grid import image_grid
    from lightgen_core.report.svg import standalone

    require_writable(output.parent)
    rows = [_first_rows(side) for side in (a, b)]
    captions = [caption for caption in rows[0] if caption in rows[1]][:CAPTIONS_SHOWN]
    if not captions:
        raise UserError(f"{a.name} and {b.name} were evaluated on no caption in common: there is no image to compare")
    images = [_images(side, [found[caption] for caption in captions]) for side, found in zip((a, b), rows, strict=True)]
    shown = [
        SampleRow(rows[0][caption]["category"], caption, dict(zip(("A", "B"), pair, strict=True)))
        for caption, *pair in zip(captions, *images, strict=True)
    ]
    grid = image_grid(shown, _PAGE_BYTES)
    assert grid is not None, "one row of thumbnails is smaller than the page"
    output.write_text(standalone(grid), encoding="utf-8")
    return output


def _first_rows(side: Side) -> dict[str, dict[str, Any]]:
    """Return the first sample of each caption, without its image, categories in turn."""
    samples = side.samples()
    if samples is None:
        raise UserError(f"the images of {side.name} are not at hand: it is an exported folder, or was not evaluated")
    by_category: dict[str, dict[str, Any]] = {}
    for row in samples.to_pylist():
        by_category.setdefault(row["category"], {}).setdefault(row["caption"], row)
    turns = zip_longest(*(rows.values() for rows in by_category.values()))
    return {row["caption"]: row for turn in turns for row in turn if row}


def _images(side: Side, rows: list[dict[str, Any]]) -> "list[JudgedImage]":
    import numpy as np

    from lightgen_core.images.codec import decode_image
    from lightgen_core.report.data import JudgedImage
    from storage.rows import take_rows

    assert side.evaluation is not None, "rows came from it"
    numbers = [row["row"] for row in rows]
    taken = take_rows(side.evaluation, _SAMPLES, np.array(sorted(numbers), dtype=np.int64), ["image"])
    encoded = dict(zip(sorted(numbers), (image["bytes"] for image in taken["image"].to_pylist()), strict=True))
    return [JudgedImage(decode_image(encoded[row["row"]]), row["correct"]) for row in rows]
