"""dedup: embeddings -> kept images, dropped ones with the reason, and the diversity of the rest."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.dedup.score_filter import clip_score_mask
from lightgen_core.filters.verdicts import LOW_SCORE, Verdicts
from lightgen_core.images.codec import decode_image
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import read_table, schema
from tasks.config.recipe import Recipe
from tasks.context.context import LOG_INTERVAL_SECONDS, StageContext
from tasks.context.progress import Progress, duration_in_words
from tasks.dedup_filters import filter_images
from tasks.dedup_inputs import ScoredImages, gather
from tasks.stage import stage

if TYPE_CHECKING:
    from lightgen_core.dedup.copies import CopyMatcher
    from lightgen_core.dedup.images import Deduplication
    from lightgen_core.dedup.planted import PlantedCopies

FIELDS = {
    "id": pa.int64(),
    "kept": pa.bool_(),
    "reason": pa.string(),
    "duplicate_of": pa.int64(),
    "similarity": pa.float32(),
}
FILTER_FIELDS = {"value": pa.float32(), "threshold": pa.float32()}
"""Columns of recipes with `dedup.filters`: what was measured, of a duplicate its cosine, and what was asked."""


KEEP_FILE = "keep.parquet"
PLANTED_AMONG = 10_000
"""Images among which planted copies are searched, at most."""


def _heads(recipe: Recipe) -> tuple[str, ...]:
    """Return the files of the filters' heads."""
    return tuple(head.weights for head in recipe.dedup.filters.heads) if recipe.dedup.filters else ()


def _judge(recipe: Recipe) -> tuple[str, ...]:
    """Return the model of a judge in this process."""
    filters = recipe.dedup.filters
    return filters.judge.weights if filters and filters.judge else ()


@stage(
    version=5,
    config_sections=("seed", "dedup"),
    count_fields=("seed", "dedup", "files"),  # no measure of pixels depends on them; a judgement has its judge's hash
    weights=_judge,
    files=_heads,
    on_device=lambda recipe: bool(_judge(recipe)),
)
def dedup(ctx: StageContext, synthesis: Artifact, embeddings: Artifact) -> None:
    """Write `keep.parquet`, one row for each image; metrics and the recall certificate go into the manifest.

    An image that a filter drops, or that does not show its caption, is dropped first, and is then nobody's duplicate.
    A run that was killed continues after the last block of rows it has decided.
    """
    from lightgen_core.dedup.diversity import diversity
    from lightgen_core.dedup.images import find_duplicates
    from lightgen_core.dedup.search import Subset

    config = ctx.recipe.dedup
    scored = read_table(embeddings, "^embeddings", ["id", "score"])
    ids, scores = scored["id"].to_numpy(), scored["score"].to_numpy()
    shown = clip_score_mask(scores, ids, config.min_clip_score, config.drop_lowest_fraction)
    verdicts = filter_images(ctx, synthesis, embeddings, scores, shown) if config.filters else None
    shown = verdicts.passed if verdicts else shown
    images = gather(ctx, embeddings, ids, scores, shown, copies=config.compare == "all")
    described = read_table(synthesis, "^images", ["topic", "meaning", "caption"])
    chosen = described.filter(pa.array(images.shown))
    matcher, planted = None, None
    if config.compare == "all":
        matcher, planted = _copies(ctx, synthesis, images, chosen["caption"].to_pylist())
    duplicates = find_duplicates(
        images.vectors,
        images.pixels,
        images.scores[images.shown],
        images.ids[images.shown].tolist(),
        config,
        groups=chosen["meaning"].to_pylist() if config.compare == "meaning" else None,
        copies=matcher,
        seed=derive_seed(ctx.recipe.seed, "dedup"),
        threads=ctx.settings.threads,
        folder=ctx.scratch / "blocks",
        on_progress=_row_progress(ctx, len(images.vectors)),
    )
    if crowded := duplicates.certificate.crowded:
        ctx.log("%d images have more near images, or near hashes, than were looked at", crowded)
    duplicates = _selected(ctx, images, duplicates)
    rows = _verdict_table(images.ids, images.shown, duplicates, verdicts, config.threshold)
    ctx.write_table(KEEP_FILE, rows)
    kept = np.flatnonzero(duplicates.kept)
    ctx.counts = {"rows": len(rows), "kept": len(kept), "dropped": len(images.ids) - len(kept)}
    topics, meanings = (chosen[name].take(kept).to_pylist() for name in ("topic", "meaning"))
    ctx.metrics = {
        "reasons": dict(Counter(reason for reason in rows["reason"].to_pylist() if reason)),
        "scores": dict(
            zip(("lowest", "median", "highest"), np.quantile(images.scores, (0, 0.5, 1)).tolist(), strict=True)
        ),
        "certificate": asdict(duplicates.certificate),
        "planted_copies": asdict(planted) if planted else None,
        "diversity": asdict(
            diversity(Subset(images.vectors, kept), topics, meanings, derive_seed(ctx.recipe.seed, "diversity"), config)
        ),
    }


def _row_progress(ctx: StageContext, total: int) -> Callable[[int], None]:
    """Return a callback that reports decided rows, and now and then logs their rate and the time left."""
    logged, before, left = time.monotonic(), 0, None

    def on_progress(rows: int) -> None:
        nonlocal logged, before, left
        if (seconds := time.monotonic() - logged) >= LOG_INTERVAL_SECONDS:
            rate = (rows - before) / seconds
            left = (total - rows) / rate
            ctx.log("%d of %d rows, %.0f rows/s, %s left", rows, total, rate, duration_in_words(left))
            logged, before = time.monotonic(), rows
        ctx.on_progress(Progress(rows, total, "rows", left))

    return on_progress


def _copies(
    ctx: StageContext, synthesis: Artifact, images: ScoredImages, captions: list[str]
) -> "tuple[CopyMatcher, PlantedCopies | None]":
    """Return the matcher of the shown images, and how many planted copies it finds among some of them."""
    from lightgen_core.dedup.copies import CopyMatcher
    from lightgen_core.dedup.planted import find_planted_copies

    config, seed, rows = ctx.recipe.dedup.copies, derive_seed(ctx.recipe.seed, "planted copies"), len(captions)
    hashes, thumbnails = images.hashes, images.thumbnails
    assert hashes is not None and thumbnails is not None, "gathered with copies"
    matcher = CopyMatcher(hashes, thumbnails, captions, config)
    if not config.planted or rows < 2:
        return matcher, None
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(rows, min(rows, PLANTED_AMONG), replace=False))
    originals = np.sort(rng.choice(len(some), min(len(some), config.planted), replace=False))
    taken = np.flatnonzero(images.shown)[some[originals]]
    encoded = take_rows(synthesis, "^images", taken, ["image"])["image"].to_pylist()
    decoded = [decode_image(image["bytes"]) for image in encoded]
    words = [captions[row] for row in some]
    return matcher, find_planted_copies(originals, decoded, hashes[some], thumbnails[some], words, config, seed)


def _selected(ctx: StageContext, images: ScoredImages, duplicates: "Deduplication") -> "Deduplication":
    """Return the verdicts after `dedup.select`: what it leaves out is dropped for that reason."""
    from lightgen_core.dedup.search import Subset
    from lightgen_core.dedup.selection import select

    config = ctx.recipe.dedup
    if config.select is None:
        return duplicates
    rows = np.flatnonzero(duplicates.kept)
    ids, scores = images.ids[images.shown][rows], images.scores[images.shown][rows]
    seed = derive_seed(ctx.recipe.seed, "selection")
    selected = select(Subset(images.vectors, rows), ids, scores, config.select, config.clusters, seed)
    ctx.log("%d of %d images selected (%s)", selected.sum(), len(rows), config.select.method)
    kept, reason = duplicates.kept.copy(), list(duplicates.reason)
    for row in rows[~selected]:
        kept[row], reason[row] = False, "not selected"
    return replace(duplicates, kept=kept, reason=reason)


def _verdict_table(
    ids: np.ndarray,
    shown: np.ndarray,
    duplicates: "Deduplication",
    verdicts: Verdicts | None,
    threshold: float,
) -> pa.Table:
    """Return a row for each image: the search's verdict if it passed the filters, else theirs."""
    kept, similarity = np.zeros(len(ids), bool), np.full(len(ids), np.nan, np.float32)
    kept[shown], similarity[shown] = duplicates.kept, duplicates.similarity
    reason = np.full(len(ids), LOW_SCORE, object) if verdicts is None else verdicts.reason.copy()
    duplicate_of = np.full(len(ids), None, object)
    reason[shown], duplicate_of[shown] = duplicates.reason, duplicates.duplicate_of
    columns = {
        "id": ids,
        "kept": kept,
        "reason": reason,
        "duplicate_of": duplicate_of,
        "similarity": pa.array(similarity, from_pandas=True),
    }
    if verdicts is None:
        return pa.table(columns, schema(FIELDS))
    value, least = (np.where(shown, similarity, verdicts.value), verdicts.threshold.copy())
    least[np.isin(reason.astype(str), ("exact copy", "near duplicate"))] = threshold
    columns["value"], columns["threshold"] = (pa.array(column, from_pandas=True) for column in (value, least))
    return pa.table(columns, schema(FIELDS | FILTER_FIELDS))
