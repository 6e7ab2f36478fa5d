"""dedup: embeddings -> kept images, dropped ones with the reason, and the diversity of the rest."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.dedup.score_filter import clip_score_mask
from lightgen_core.images.codec import decode_image
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.rows import take_rows
from storage.tables import read_table, schema
from tasks.context.context import StageContext
from tasks.stage import stage

if TYPE_CHECKING:
    from lightgen_core.dedup.copies import CopyMatcher
    from lightgen_core.dedup.images import Deduplication
    from lightgen_core.dedup.planted import PlantedCopies

SCHEMA = schema(
    {
        "id": pa.int64(),
        "kept": pa.bool_(),
        "reason": pa.string(),
        "duplicate_of": pa.int64(),
        "similarity": pa.float32(),
    }
)


KEEP_FILE = "keep.parquet"
LOW_SCORE = "low text-image score"
PLANTED_AMONG = 10_000
"""Images among which planted copies are searched, at most."""


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
    chosen, described = images.filter(pa.array(shown)), embedded.filter(pa.array(shown))
    captions = chosen["caption"].to_pylist()
    matcher, planted = None, None
    if config.compare == "all":
        matcher, planted = _copies(ctx, synthesis, np.flatnonzero(shown), described, captions)
    duplicates = find_duplicates(
        vectors if shown.all() else vectors[shown],
        described["pixels"].to_pylist(),
        scores[shown],
        chosen["id"].to_pylist(),
        config,
        groups=chosen["meaning"].to_pylist() if config.compare == "meaning" else None,
        copies=matcher,
        seed=derive_seed(ctx.recipe.seed, "dedup"),
    )
    rows = _verdict_table(ids, shown, duplicates)
    ctx.write_table(KEEP_FILE, rows)
    kept = np.flatnonzero(rows["kept"])
    ctx.counts = {"kept": len(kept), "dropped": len(ids) - len(kept)}
    topics, meanings = (
        np.asarray(images[name].to_pylist(), dtype=object)[kept].tolist() for name in ("topic", "meaning")
    )
    ctx.metrics = {
        "reasons": dict(Counter(reason for reason in rows["reason"].to_pylist() if reason)),
        "scores": dict(zip(("lowest", "median", "highest"), np.quantile(scores, (0, 0.5, 1)).tolist(), strict=True)),
        "certificate": asdict(duplicates.certificate),
        "planted_copies": asdict(planted) if planted else None,
        "diversity": asdict(
            diversity(vectors[kept], topics, meanings, derive_seed(ctx.recipe.seed, "diversity"), config)
        ),
    }


def _copies(
    ctx: StageContext, synthesis: Artifact, rows: np.ndarray, described: pa.Table, captions: list[str]
) -> "tuple[CopyMatcher, PlantedCopies | None]":
    """Return the matcher of the images at `rows`, and how many planted copies it finds among some of them."""
    from lightgen_core.dedup.copies import CopyMatcher
    from lightgen_core.dedup.copy_features import CopyFeatures, stack_features
    from lightgen_core.dedup.planted import find_planted_copies

    config, seed = ctx.recipe.dedup.copies, derive_seed(ctx.recipe.seed, "planted copies")
    features = zip(*(described[name].to_pylist() for name in CopyFeatures._fields), strict=True)
    hashes, thumbnails = stack_features(map(CopyFeatures._make, features))
    matcher = CopyMatcher(hashes, thumbnails, captions, config)
    if not config.planted or len(rows) < 2:
        return matcher, None
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(rows), min(len(rows), PLANTED_AMONG), replace=False))
    originals = np.sort(rng.choice(len(some), min(len(some), config.planted), replace=False))
    images = take_rows(synthesis, "^images", rows[some[originals]], ["image"])["image"].to_pylist()
    decoded = [decode_image(image["bytes"]) for image in images]
    words = [captions[row] for row in some]
    return matcher, find_planted_copies(originals, decoded, hashes[some], thumbnails[some], words, config, seed)


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
