"""dedup: embeddings -> kept images, dropped ones with the reason, and the diversity of the rest."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.config import CopyConfig
from lightgen_core.dedup.score_filter import clip_score_mask
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import read_table, schema
from tasks.context.context import StageContext
from tasks.stage import stage

if TYPE_CHECKING:
    from lightgen_core.dedup.copies import CopyMatcher
    from lightgen_core.dedup.images import Deduplication

SCHEMA = schema(
    {
        "id": pa.int64(),
        "kept": pa.bool_(),
        "reason": pa.string(),
        "duplicate_of": pa.int64(),
        "similarity": pa.float32(),
    }
)


LOW_SCORE = "low text-image score"


@stage(version=4, config_sections=("seed", "dedup"))
def dedup(ctx: StageContext, synthesis: Artifact, embeddings: Artifact) -> None:
    """Write `keep.parquet`, one row for each image; metrics and the recall certificate go into the manifest.

    An image that does not show its caption is dropped first, and is then nobody's duplicate.
    """
    from lightgen_core.dedup.diversity import diversity
    from lightgen_core.dedup.images import find_duplicates

    config = ctx.recipe.dedup
    images = read_table(synthesis, "^images", ["id", "topic", "meaning", "caption"])
    copy_columns = ["hashes", "thumbnail"] if config.compare == "all" else []
    embedded = read_table(embeddings, "^embeddings", ["id", "image", "score", "pixels", *copy_columns])
    column = embedded["image"].combine_chunks()
    vectors = np.ascontiguousarray(column.flatten().to_numpy().reshape(len(column), -1))
    ids, scores = images["id"].to_numpy(), embedded["score"].to_numpy()
    shown = clip_score_mask(scores, ids, config.min_clip_score, config.drop_lowest_fraction)
    chosen = images.filter(pa.array(shown))
    duplicates = find_duplicates(
        vectors if shown.all() else vectors[shown],
        embedded["pixels"].filter(pa.array(shown)).to_pylist(),
        scores[shown],
        chosen["id"].to_pylist(),
        config,
        groups=chosen["meaning"].to_pylist() if config.compare == "meaning" else None,
        copies=_matcher(embedded.filter(pa.array(shown)), chosen, config.copies) if config.compare == "all" else None,
        seed=derive_seed(ctx.recipe.seed, "dedup"),
    )
    rows = _verdict_table(ids, shown, duplicates)
    ctx.write_table("keep.parquet", rows)
    kept = np.flatnonzero(rows["kept"])
    ctx.counts = {"kept": len(kept), "dropped": len(ids) - len(kept)}
    topics, meanings = (
        np.asarray(images[name].to_pylist(), dtype=object)[kept].tolist() for name in ("topic", "meaning")
    )
    ctx.metrics = {
        "reasons": dict(Counter(reason for reason in rows["reason"].to_pylist() if reason)),
        "scores": dict(zip(("lowest", "median", "highest"), np.quantile(scores, (0, 0.5, 1)).tolist(), strict=True)),
        "certificate": asdict(duplicates.certificate),
        "diversity": asdict(
            diversity(vectors[kept], topics, meanings, derive_seed(ctx.recipe.seed, "diversity"), config)
        ),
    }


def _matcher(embedded: pa.Table, images: pa.Table, config: CopyConfig) -> "CopyMatcher":
    from lightgen_core.dedup.copies import CopyMatcher
    from lightgen_core.dedup.copy_features import HASH_BYTES, THUMBNAIL, VIEWS

    hashes, thumbnails = (
        np.frombuffer(b"".join(embedded[name].to_pylist()), np.uint8).reshape(len(embedded), *shape)
        for name, shape in (("hashes", (VIEWS, HASH_BYTES)), ("thumbnail", (THUMBNAIL, THUMBNAIL, 3)))
    )
    return CopyMatcher(hashes, thumbnails, images["caption"].to_pylist(), config)


def _verdict_table(ids: np.ndarray, shown: np.ndarray, duplicates: "Deduplication") -> pa.Table:
    """Return a row for each image: the search's verdict if it shows its caption, else the low score."""
    kept, similarity = np.zeros(len(ids), bool), np.full(len(ids), np.nan, np.float32)
    kept[shown], similarity[shown] = duplicates.kept, duplicates.similarity
    reason = np.full(len(ids), LOW_SCORE, object)
    duplicate_of = np.full(len(ids), None, object)
    reason[shown], duplicate_of[shown] = duplicates.reason, duplicates.duplicate_of
    columns = {
        "id": ids,
        "kept": kept,
        "reason": reason,
        "duplicate_of": duplicate_of,
        "similarity": pa.array(similarity, from_pandas=True),
    }
    return pa.table(columns, SCHEMA)
