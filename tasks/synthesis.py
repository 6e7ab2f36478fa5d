"""synthesis: captions -> the teacher's images, in Parquet shards that `datasets` opens with an Image feature."""

import hashlib
from collections import Counter

import pyarrow as pa

from lightgen_core.images.codec import suffix_of
from lightgen_core.rejected import Rejected
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import IMAGE, schema
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard, split_rows
from tasks.stage import stage
from tasks.synthesis_plan import SynthesisPlan, plan_synthesis

SCHEMA = schema(
    {
        "id": pa.int64(),
        "image": IMAGE,
        "caption": pa.string(),
        "topic": pa.string(),
        "meaning": pa.string(),
        "caption_id": pa.int64(),
        "seed": pa.int64(),
        "source": pa.string(),
        "sha256": pa.string(),
    }
)
QUARANTINE = schema(
    {"id": pa.int64(), "source": pa.string(), "caption": pa.string(), "reason": pa.string(), "detail": pa.string()}
)


class NoImagesError(Exception):
    """The teacher gave not one image."""


def _weights(recipe: Recipe) -> tuple[str, ...]:
    config = recipe.synthesis
    return (config.diffusers.model,) if config.teacher == "diffusers" and config.diffusers else ()


def _files(recipe: Recipe) -> tuple[str, ...]:
    config = recipe.synthesis
    return (config.files.path,) if config.teacher == "files" and config.files else ()


@stage(
    version=5,
    config_sections=("seed", "world", "synthesis"),
    weights=_weights,
    files=_files,
    on_device=lambda recipe: recipe.synthesis.teacher == "diffusers",
)
def synthesis(ctx: StageContext, captions: Artifact) -> None:
    """Write `images-*.parquet`, and in `quarantine-*.parquet` the images that failed, with the reason.

    Every image is planned before the first is made, with its id and seed, so neither batch nor shard nor a failure
    changes another. The id of an image in the quarantine stays unused.
    """
    plan = plan_synthesis(ctx.recipe, captions)
    if (without := plan.counts.get("caption_filtered_out")) is not None:
        ctx.log("%s with a kept caption, %d without", pluralize(len(plan), "sample"), without)
    if plan.rejected:
        rows = [{"id": None, "source": s.key, "caption": s.caption, **_reason_columns(s.error)} for s in plan.rejected]
        ctx.write_table("quarantine-set.parquet", pa.Table.from_pylist(rows, QUARANTINE))
    shards = split_rows(len(plan), ctx.recipe.synthesis.shard_size, "images", "quarantine")
    ctx.run_shards(shards, SynthesisWorker, plan)
    _summarize(ctx, plan)


class SynthesisWorker:
    """Makes the images of a shard: a table of those that succeeded, and one of the others."""

    def __init__(self, ctx: StageContext, plan: SynthesisPlan) -> None:
        self.ctx, self.plan, self.images = ctx, plan, plan.load_source(ctx)

    def __call__(self, shard: RowRangeShard) -> None:
        images, quarantine = [], []
        rows, results = self.plan.rows(shard.start, shard.stop), self.images(shard.start, shard.stop)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Rejected):
                source = {name: row[name] for name in ("id", "source", "caption")}
                quarantine.append(source | _reason_columns(result))
            else:
                image = {"bytes": result, "path": f"{row['id']:09d}.{suffix_of(result)}"}
                images.append(row | {"image": image, "sha256": hashlib.sha256(result).hexdigest()})
        images_file, quarantine_file = shard.files
        self.ctx.write_table(quarantine_file, pa.Table.from_pylist(quarantine, QUARANTINE))
        self.ctx.write_table(images_file, pa.Table.from_pylist(images, SCHEMA))


def _reason_columns(rejected: Rejected) -> dict[str, str]:
    """Return a reason as columns; a server's or file's message may hold characters that UTF-8 cannot encode."""
    detail = rejected.detail[:500].encode(errors="backslashreplace").decode()
    return {"reason": rejected.reason, "detail": detail}


def _summarize(ctx: StageContext, plan: SynthesisPlan) -> None:
    """Count the images and the failures. Raise NoImagesError if there is no image."""
    records = ctx.records()
    images = sum(entry.rows for name, entry in records.items() if name.startswith("images"))
    quarantined = sum(entry.rows for name, entry in records.items() if name.startswith("quarantine"))
    reasons = Counter(ctx.read_output("^quarantine")["reason"].to_pylist()) if quarantined else Counter()
    if not images:
        common = f", most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        raise NoImagesError(
            f"not one image: {quarantined} in quarantine{common}; {plan.counts or 'nothing'} left out.\n"
            f"See {ctx.artifact.uri}/quarantine-*.parquet; when the cause is gone, run with --refresh synthesis."
        )
    ctx.counts = {"rows": images, "quarantined": quarantined} | plan.counts
    ctx.metrics = {"quarantine": dict(sorted(reasons.items())), **plan.metrics}
    if quarantined:
        summary = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        ctx.log("%s, %d in quarantine: %s", pluralize(images, "image"), quarantined, summary)
