"""dedup: embeddings -> which pictures stay, why the others go, and how diverse what stays is."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.dedup.score_filter import clip_score_mask
from lightgen_core.seeds import derive_seed
from storage.artifact import Artifact
from storage.tables import read_table, schema
from tasks.context.context import Job
from tasks.stage import stage

if TYPE_CHECKING:
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


@stage(version=3, reads=("seed", "dedup"))
def dedup(job: Job, synthesis: Artifact, embeddings: Artifact) -> None:
    """Write `keep.parquet`, one row for each picture; the figures and the recall certificate go into the manifest.

    A picture that does not show its caption goes first, and is then nobody's duplicate.
    """
    from lightgen_core.dedup.diversity import diversity
    from lightgen_core.dedup.images import find_duplicates

    asked = job.recipe.dedup
    pictures = read_table(synthesis, "^images", ["id", "topic", "meaning", "sha256"])
    embedded = read_table(embeddings, "^embeddings", ["id", "image", "score"])
    column = embedded["image"].combine_chunks()
    vectors = np.ascontiguousarray(column.flatten().to_numpy().reshape(len(column), -1))
    ids, scores = pictures["id"].to_numpy(), embedded["score"].to_numpy()
    shown = clip_score_mask(scores, ids, asked.min_clip_score, asked.drop_lowest_fraction)
    chosen = pictures.filter(pa.array(shown))
    found = find_duplicates(
        vectors if shown.all() else vectors[shown],
        chosen["sha256"].to_pylist(),
        scores[shown],
        chosen["id"].to_pylist(),
        asked,
        groups=chosen["meaning"].to_pylist(),
        seed=derive_seed(job.recipe.seed, "dedup"),
    )
    rows = _verdicts(ids, shown, found)
    job.write_table("keep.parquet", rows)
    stays = np.flatnonzero(rows["kept"])
    job.counts = {"kept": len(stays), "dropped": len(ids) - len(stays)}
    topics, meanings = (
        np.asarray(pictures[name].to_pylist(), dtype=object)[stays].tolist() for name in ("topic", "meaning")
    )
    job.figures = {
        "reasons": dict(Counter(reason for reason in rows["reason"].to_pylist() if reason)),
        "scores": dict(zip(("lowest", "median", "highest"), np.quantile(scores, (0, 0.5, 1)).tolist(), strict=True)),
        "certificate": asdict(found.certificate),
        "diversity": asdict(
            diversity(vectors[stays], topics, meanings, derive_seed(job.recipe.seed, "diversity"), asked)
        ),
    }


def _verdicts(ids: np.ndarray, shown: np.ndarray, found: "Deduplication") -> pa.Table:
    """One row for each picture: what was found of those that show their caption, and why the others go."""
    kept, similarity = np.zeros(len(ids), bool), np.full(len(ids), np.nan, np.float32)
    kept[shown], similarity[shown] = found.kept, found.similarity
    reason = np.full(len(ids), LOW_SCORE, object)
    duplicate_of = np.full(len(ids), None, object)
    reason[shown], duplicate_of[shown] = found.reason, found.duplicate_of
    columns = {
        "id": ids,
        "kept": kept,
        "reason": reason,
        "duplicate_of": duplicate_of,
        "similarity": pa.array(similarity, from_pandas=True),
    }
    return pa.table(columns, SCHEMA)
