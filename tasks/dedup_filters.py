"""The filters of the stage dedup: measures and judgements, shard by shard, and the verdicts on them."""

import hashlib
from collections import Counter
from contextlib import ExitStack

import numpy as np
import pyarrow as pa

from lightgen_core.filters.config import ImageFilters
from lightgen_core.filters.verdicts import (
    Verdicts,
    apply_head,
    apply_judge,
    apply_pixel_filters,
    apply_text_image_score,
)
from lightgen_core.images.parallel import decode_batches, encoded_bytes
from lightgen_core.seeds import derive_seed
from lightgen_core.vlm.config import JudgeConfig
from storage.artifact import Artifact
from storage.rows import rows_at
from storage.tables import iter_tables, read_file, read_table, schema
from tasks.context.context import StageContext
from tasks.context.digests import weights_digest
from tasks.context.shards import FileShard, shard_per_file
from tasks.vlm import load_vlm

MEASURES = schema(
    {
        "id": pa.int64(),
        "sha256": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sharpness": pa.float32(),
        "entropy": pa.float32(),
    }
)
JUDGEMENTS = schema(
    {
        "id": pa.int64(),
        "sha256": pa.string(),
        "caption": pa.string(),
        "judge": pa.string(),
        "answer": pa.string(),
        "score": pa.float32(),
    }
)
"""`judge` is a hash of all that decides its answers; `score` is null where the answer holds none."""

_AT_ONCE = 64
"""Images decoded at once."""


def filter_images(
    ctx: StageContext,
    synthesis: Artifact,
    embeddings: Artifact,
    scores: np.ndarray,
    shown: np.ndarray,
) -> Verdicts:
    """Return the verdicts on all images; write `measures-*` and `judgements-*`, where such filters are on.

    Args:
        scores: (n,) of text and image; `shown`, (n,) bool: those that pass the rules on them.

    Raises:
        ValueError: no image is left, or a head does not fit.
        EndpointError: the judge cannot be reached. What it has answered is kept.
    """
    filters, verdicts = ctx.recipe.dedup.filters, Verdicts(len(scores))
    assert filters is not None, "called for recipes with filters"
    if filters.measures_pixels:
        shards = shard_per_file(synthesis, "^images", "measures", address=ctx.row_config.address)
        ctx.run_shards(shards, MeasureWorker, synthesis)
        measured = ctx.read_output("^measures")
        apply_pixel_filters(verdicts, filters, {name: measured[name].to_numpy() for name in MEASURES.names[2:]})
    apply_text_image_score(verdicts, scores, shown, ctx.recipe.dedup.min_clip_score)
    _apply_heads(verdicts, filters, embeddings)
    if filters.judge is not None and verdicts.passed.any():
        apply_judge(verdicts, _judge(ctx, synthesis, filters.judge, verdicts.passed), filters.judge.min_score)
    if not verdicts.passed.any():
        counts = ", ".join(f"{reason} {count}" for reason, count in Counter(verdicts.reason).most_common())
        raise ValueError(f"dedup.filters leave no image of {len(scores)}: {counts}; loosen the filter that drops most")
    return verdicts


class MeasureWorker:
    """Measures the pixels of a shard of images."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        self.ctx, self.synthesis = ctx, synthesis
        self.earlier = ctx.earlier_rows("^measures", ("sha256",))

    def __call__(self, shard: FileShard) -> None:
        rows = read_file(self.synthesis, shard.source, ["id", "sha256", "image"])
        values, reused = self.earlier.complete(
            rows.select(["sha256"]), MEASURES.names[2:], lambda positions: self._measure(rows_at(rows, positions))
        )
        columns = {name: rows[name] for name in ("id", "sha256")} | {name: values[name] for name in MEASURES.names[2:]}
        self.ctx.write_table(shard.name, pa.table(columns, MEASURES), address=shard.address, reused=reused)

    def _measure(self, rows: pa.Table) -> pa.Table:
        from lightgen_core.filters.pixels import measure_pixels

        encoded = encoded_bytes(rows["image"])
        batches = decode_batches(encoded, rows["id"].to_pylist(), _AT_ONCE, self.ctx.settings.threads, measure_pixels)
        measures = [measure._asdict() for batch in batches for measure in batch]
        return pa.Table.from_pylist(measures, pa.schema([MEASURES.field(name) for name in MEASURES.names[2:]]))


def _apply_heads(verdicts: Verdicts, filters: ImageFilters, embeddings: Artifact) -> None:
    from lightgen_core.filters.embedding_head import EmbeddingHead

    heads = [EmbeddingHead.load(config) for config in filters.heads]
    scores: list[list[np.ndarray]] = [[] for _ in heads]
    for table in iter_tables(embeddings, "^embeddings", ["image"]) if heads else ():
        vectors = table["image"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for head, parts in zip(heads, scores, strict=True):
            parts.append(head.scores(vectors))
    for config, parts in zip(filters.heads, scores, strict=True):
        apply_head(verdicts, config, np.concatenate(parts))


def _judge(ctx: StageContext, synthesis: Artifact, judge: JudgeConfig, passed: np.ndarray) -> np.ndarray:
    """Return the judge's scores, (n,) float32, of images that have passed; NaN where it gave none."""
    from lightgen_core.vlm.judge import judge_prompt, parse_score

    weights = "".join(f"{weights_digest(name)}" for name in judge.weights)
    identity = hashlib.sha256((judge.identity + weights).encode()).hexdigest()[:16]
    ids = read_table(synthesis, "^images", ["id"])["id"].filter(pa.array(passed)).to_pylist()
    asked, keys = set(ids), ("sha256", "caption", "judge")
    earlier = ctx.earlier_rows("^judgements", keys)
    with ExitStack() as stack:
        vlm = None
        for shard in ctx.pending_shards(shard_per_file(synthesis, "^images", "judgements")):
            rows = read_file(synthesis, shard.source, ["id", "sha256", "caption", "image"])
            rows = rows.filter(pa.array([number in asked for number in rows["id"].to_pylist()], pa.bool_()))
            rows = rows.append_column("judge", pa.array([identity] * len(rows), pa.string()))

            def ask(positions: list[int], rows: pa.Table = rows) -> pa.Table:
                nonlocal vlm
                vlm = vlm or load_vlm(ctx, judge, stack)
                batch = rows_at(rows, positions).to_pylist()
                answers = vlm.write(
                    [row["image"]["bytes"] for row in batch],
                    [judge_prompt(judge, row["caption"]) for row in batch],
                    [derive_seed(ctx.recipe.seed, "judge", row["sha256"]) for row in batch],
                )
                scored = [
                    {"answer": answer.error or answer.text, "score": parse_score(answer, judge)} for answer in answers
                ]
                return pa.Table.from_pylist(scored, pa.schema([JUDGEMENTS.field(name) for name in ("answer", "score")]))

            values, reused = earlier.complete(rows.select(keys), ("answer", "score"), ask) if len(rows) else (rows, 0)
            columns = {name: rows[name] for name in ("id", *keys)}
            columns |= {name: values[name] if len(rows) else pa.array([]) for name in ("answer", "score")}
            table = pa.table({name: columns[name].cast(JUDGEMENTS.field(name).type) for name in JUDGEMENTS.names})
            ctx.write_table(shard.name, table.cast(JUDGEMENTS), reused=reused)
    given = ctx.read_output("^judgements")
    scores = np.full(len(passed), np.nan, np.float32)
    scores[np.flatnonzero(passed)] = given["score"].to_numpy(zero_copy_only=False)
    return scores
