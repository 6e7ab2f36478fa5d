"""dedup: embeddings -> which pictures stay, why the others go, and how diverse what stays is."""

from collections import Counter
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from lightgen_core.dedup import find_duplicates
from lightgen_core.diversity import diversity
from lightgen_core.seeds import seed_of
from storage.artifact import Artifact
from storage.tables import read_table, schema
from tasks.stage import Job, stage

SCHEMA = schema(
    {
        "id": pa.int64(),
        "kept": pa.bool_(),
        "reason": pa.string(),
        "duplicate_of": pa.int64(),
        "similarity": pa.float32(),
    }
)


@stage(version=1, reads=("seed", "dedup"))
def dedup(job: Job, synthesis: Artifact, embeddings: Artifact) -> None:
    """Write `keep.parquet`, one row for each picture; the figures and the recall certificate go into the manifest."""
    pictures = read_table(synthesis, "^images", ["id", "topic", "meaning", "sha256"])
    embedded = read_table(embeddings, "^embeddings", ["id", "image", "score"])
    column = embedded["image"].combine_chunks()
    vectors = np.ascontiguousarray(column.flatten().to_numpy().reshape(len(column), -1))
    found = find_duplicates(
        vectors,
        pictures["sha256"].to_pylist(),
        embedded["score"].to_numpy(),
        pictures["id"].to_pylist(),
        job.recipe.dedup,
        groups=pictures["meaning"].to_pylist(),
        seed=seed_of(job.recipe.seed, "dedup"),
    )
    rows = {
        "id": pictures["id"],
        "kept": found.kept,
        "reason": found.reason,
        "duplicate_of": found.duplicate_of,
        "similarity": pa.array(found.similarity, from_pandas=True),
    }
    job.write_table("keep.parquet", pa.table(rows, SCHEMA))
    job.counts = {"kept": int(found.kept.sum()), "dropped": int((~found.kept).sum())}
    stays = np.flatnonzero(found.kept)
    topics, meanings = (
        np.asarray(pictures[name].to_pylist(), dtype=object)[stays].tolist() for name in ("topic", "meaning")
    )
    job.figures = {
        "reasons": dict(Counter(reason for reason in found.reason if reason)),
        "certificate": asdict(found.certificate),
        "diversity": asdict(
            diversity(vectors[stays], topics, meanings, seed_of(job.recipe.seed, "diversity"), job.recipe.dedup)
        ),
    }
