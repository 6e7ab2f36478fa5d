"""`lightgen compare`: two students by their recipes, lineage, scores and images."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checkpoint import find_student
from flows.commands.lineage import Lineage
from flows.commands.side import Side, first_rows, read_images, run_before, runs_beside, side_of, side_of_artifact
from flows.errors import UserError
from flows.folders import require_writable
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact

if TYPE_CHECKING:
    import pyarrow as pa


CAPTIONS_SHOWN = 24
"""Captions of the page with images."""
_PAGE_BYTES = 8_000_000  # of encoded images


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
        found = find_student(first, store)
        b = side_of(first, found)
        a = _side_before(b, found.artifact)
    else:
        a, b = (side_of(name, find_student(name, store)) for name in (first, second))
    return {
        "a": _summary(a),
        "b": _summary(b),
        "fields": changed_fields(a.lineage, b.lineage),
        "stages": _stages(a.lineage, b.lineage),
        "difference": paired_difference(a, b),
        "images": str(_write_images(a, b, output)) if output else None,
    }


def _side_before(side: Side, artifact: Artifact | None) -> Side:
    """Return the student of the run before. Raises UserError if there is none, or no report that knows its recipe."""
    if artifact is None or artifact.stage != "report":
        raise UserError(
            f"{side.name} is not the student of a report, which alone knows the name of its recipe: name a second "
            "student to compare it with, such as report/8cf2; `lightgen store ls` lists them"
        )
    earlier = run_before(artifact)
    if earlier is None:
        own = artifact.manifest()
        later = ", ".join(f"report/{each.key[:8]} of {each.created_at}" for _, each in runs_beside(artifact))
        raise UserError(
            f"{artifact.store.uri} holds no run of {own.config['name']} before report/{own.key[:8]} of {own.created_at}"
            + (f"; later ones are {later}: name one of them as the second student" if later else "")
        )
    return side_of_artifact(f"report/{earlier.key[:8]} of {earlier.manifest().created_at}", earlier)


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


def changed_fields(a: Lineage, b: Lineage) -> dict[str, list[Any]]:
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


def shared_stages(a: Lineage, b: Lineage) -> list[str]:
    """Return the labels of stages of which both have the same artifact."""
    return [row["stage"] for row in _stages(a, b) if row["shared"]]


def _stages(a: Lineage, b: Lineage) -> list[dict[str, Any]]:
    """Return the keys of both by label, and whether they share the artifact."""
    first, second = a.ordered, b.ordered
    rows = []
    for label in dict.fromkeys((*first, *second)):
        keys = [each[label].key if label in each else None for each in (first, second)]
        rows.append({"stage": label, "a": keys[0], "b": keys[1], "shared": keys[0] == keys[1]})
    return rows


def paired_difference(a: Side, b: Side) -> dict[str, Any] | None:
    """Return the paired differences of the verdicts, b less a; None unless captions and seeds are the same."""
    first, second = (side.samples() if side.scores else None for side in (a, b))
    return None if first is None or second is None else _difference(first, second)


def _difference(first: "pa.Table", second: "pa.Table") -> dict[str, Any] | None:
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
    rows = [first_rows(side) for side in (a, b)]
    captions = [caption for caption in rows[0] if caption in rows[1]][:CAPTIONS_SHOWN]
    if not captions:
        raise UserError(f"{a.name} and {b.name} were evaluated on no caption in common: there is no image to compare")
    chosen = [[found[caption] for caption in captions] for found in rows]
    images = [read_images(side, each) for side, each in zip((a, b), chosen, strict=True)]
    shown = [
        SampleRow(rows[0][caption]["category"], caption, dict(zip(("A", "B"), pair, strict=True)))
        for caption, *pair in zip(captions, *images, strict=True)
    ]
    grid = image_grid(shown, _PAGE_BYTES)
    assert grid is not None, "one row of thumbnails is smaller than the page"
    output.write_text(standalone(grid), encoding="utf-8")
    return output
