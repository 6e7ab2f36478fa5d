"""The report's part on sources: what each gave, its share of training, and the captions written for images."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.captioning.readers import truncate_for_report
from lightgen_core.images.codec import decode_image
from lightgen_core.report.data import (
    RecaptionedImage,
    RecaptionKind,
    Recaptions,
    SourceRow,
    SourceTable,
)
from lightgen_core.vlm.recaption import KINDS
from storage.rows import take_rows
from storage.tables import read_table
from tasks.config.curriculum import CaptionShares, SourceWeights
from tasks.dedup import KEEP_FILE
from tasks.pretrain_validation import HELD_OUT_FILE
from tasks.report_reasons import text_reasons
from tasks.synthesis import source_fields
from tasks.token_files import token_files_regex
from tasks.training_weights import weights_of_rows

if TYPE_CHECKING:
    from tasks.report_inputs import RunArtifacts

_TABLES = (
    ("Teachers", "Images", "synthesis", "images_by_teacher", "teacher"),
    ("Sources of captions", "Captions", "captions", "captions_by_source", "caption_source"),
)
"""Title, unit, stage and metric that count, and column of the shares in training."""
_CAPTIONS = {"original": "caption_id", "short": "short_id", "long": "long_id"}
"""Column of the token files that names the text of each caption of an image."""


def source_tables(run: "RunArtifacts") -> tuple[SourceTable, ...]:
    """Return a table for teachers, one for sources of captions and one for captions of an image, where several."""
    phases = run.artifacts["pretrain"].manifest().metrics.get("source_shares", [])
    tables = []
    for title, unit, stage, metric, column in _TABLES:
        counts = run.artifacts[stage].manifest().metrics.get(metric, {})
        rows = (
            SourceRow(name, count, tuple(phase[column].get(name, 0.0) for phase in phases))
            for name, count in counts.items()
        )
        tables += [SourceTable(title, unit, sum(counts.values()), tuple(rows))] if counts else []
    return (*tables, *([_captions_of_images(run)] if run.recipe.synthesis.recaption is not None else []))


def _captions_of_images(run: "RunArtifacts") -> SourceTable:
    """Return how many images have each caption, and its share of the images that each phase sees."""
    manifest = run.artifacts["synthesis"].manifest()
    images, written = manifest.counts["rows"], manifest.metrics["recaptions"]
    phases = [_caption_shares(run, number) for number in range(len(run.recipe.phases))]
    counts = {"original": images} | {kind: written[kind]["captions"] for kind in KINDS}
    rows = (SourceRow(name, count, tuple(phase[name] for phase in phases)) for name, count in counts.items())
    return SourceTable("Captions of an image", "Images", images, tuple(rows))


def _caption_shares(run: "RunArtifacts", number: int) -> dict[str, float]:
    """Return the share of each caption among those that a phase sees: an image without one comes with its original."""
    (size, config), tokens = run.recipe.phases[number], run.artifacts["tokens"]
    rows = read_table(tokens, token_files_regex(size), ["id", *_CAPTIONS.values(), *source_fields(run.recipe)])
    rows = rows.filter(pa.array(np.isin(rows["id"].to_numpy(), _trained_on(run))))
    weights = weights_of_rows(rows, config.weights or SourceWeights())
    asked = (config.caption_shares or CaptionShares(original=1)).columns()
    shares, original = dict.fromkeys(_CAPTIONS, 0.0), rows["caption_id"].to_numpy()
    for name, column in _CAPTIONS.items():
        share = asked.get(column, 0.0) / sum(asked.values())
        has = 1.0 if name == "original" else weights[rows[column].to_numpy() != original].sum() / weights.sum()
        shares[name] += share * has
        shares["original"] += share * (1 - has)
    return shares


def _trained_on(run: "RunArtifacts") -> np.ndarray:
    """Return the ids of the images that dedup keeps and pre-training does not put aside."""
    kept = read_table(run.artifacts["dedup"], KEEP_FILE, ["id", "kept"])
    ids = kept.filter(kept["kept"])["id"].to_numpy()
    if run.recipe.pretrain.validation is None:
        return ids
    return np.setdiff1d(ids, read_table(run.artifacts["pretrain"], HELD_OUT_FILE, ["id"])["id"].to_numpy())


def recaptions_of(run: "RunArtifacts") -> Recaptions | None:
    """Return the recaptions of each kind, with examples spread evenly over the images; None where none were asked for.

    Needs `synthesis`.
    """
    if run.recipe.synthesis.recaption is None:
        return None
    synthesis, report = run.artifacts["synthesis"], run.recipe.report
    counts = synthesis.manifest().metrics["recaptions"]
    kinds = []
    for kind in KINDS:
        rows = read_table(synthesis, "^recaptions", ["caption", f"{kind}_reason", f"{kind}_detail"])
        reasons = text_reasons(rows.rename_columns(["caption", "reason", "detail"]), report.filtered)
        kinds.append(RecaptionKind(kind, counts[kind]["captions"], reasons))
    images = synthesis.manifest().counts["rows"]
    shown = np.unique(np.linspace(0, images - 1, min(report.examples, images)).round().astype(int))
    pictures = take_rows(synthesis, "^images", shown, ["image"])["image"].to_pylist()
    texts = take_rows(synthesis, "^recaptions", shown, ["caption", *KINDS]).to_pylist()
    examples = (
        RecaptionedImage(
            decode_image(picture["bytes"]), *(text[name] and truncate_for_report(text[name]) for name in text)
        )
        for picture, text in zip(pictures, texts, strict=True)
    )
    return Recaptions(tuple(kinds), tuple(examples))
