"""synthesis: captions -> the teacher's images, in Parquet shards that `datasets` opens with an Image feature."""

import hashlib
from collections import Counter
from typing import Any

import pyarrow as pa

from lightgen_core.images.codec import suffix_of
from lightgen_core.rejected import Rejected
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import IMAGE, read_file, schema
from tasks.config.recipe import Recipe
from tasks.context.context import StageContext
from tasks.context.shards import RowRangeShard, split_rows
from tasks.evaluation_prompts import prompt_files
from tasks.recaptions import recaption_metrics, write_recaptions
from tasks.stage import stage
from tasks.synthesis_mix import SynthesisPlan, plan_synthesis

FIELDS = {
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
QUARANTINE = schema(
    {"id": pa.int64(), "source": pa.string(), "caption": pa.string(), "reason": pa.string(), "detail": pa.string()}
)


def source_fields(recipe: Recipe) -> list[str]:
    """Return the columns that name a row's teacher and source of captions, of recipes with several."""
    sources = {"teacher": recipe.synthesis.teachers, "caption_source": recipe.captions.sources}
    return [name for name, several in sources.items() if several]


class NoImagesError(Exception):
    """The teacher gave not one image."""


def _teachers(recipe: Recipe) -> tuple[str, ...]:
    return tuple(
        each.diffusers.model for each in recipe.synthesis.each if each.teacher == "diffusers" and each.diffusers
    )


def _weights(recipe: Recipe) -> tuple[str, ...]:
    recaption = recipe.synthesis.recaption
    return (*_teachers(recipe), *(recaption.weights if recaption else ()))


def _files(recipe: Recipe) -> tuple[str, ...]:
    sets = [each.files for each in recipe.synthesis.each if each.teacher == "files" and each.files]
    locations = [location for each in sets for location in each.locations]
    return (*locations, *(prompt_files(recipe) if recipe.synthesis.recaption else ()))


def _count_fields(recipe: Recipe) -> tuple[str, ...]:
    """Return the fields that leave each image as it is; a recaption has the hash of what decides it."""
    other_models = [f"weights.{name}" for name in _weights(recipe) if name not in _teachers(recipe)]
    return (
        "synthesis.count",
        "synthesis.balance",
        "synthesis.shard_size",
        "synthesis.teachers.weight",
        "synthesis.teachers.captions",
        "synthesis.recaption",
        "files",  # images of a set are taken from no earlier artifact
        *other_models,
    )


@stage(
    version=6,
    config_sections=("seed", "world", "synthesis"),
    count_fields=_count_fields,
    weights=_weights,
    files=_files,
    on_device=lambda recipe: bool(_weights(recipe)),
)
def synthesis(ctx: StageContext, captions: Artifact) -> None:
    """Write `images-*.parquet`, and in `quarantine-*.parquet` the images that failed, with the reason.

    Every image is planned before the first is made, with its id and seed, so neither batch nor shard nor a failure
    changes another. The id of an image in the quarantine stays unused. Images that an earlier artifact of the same
    teacher holds, by caption and seed, are taken from there.
    """
    plan = plan_synthesis(ctx.recipe, captions)
    if (without := plan.counts.get("caption_filtered_out")) is not None:
        ctx.log("%s with a kept caption, %d without", pluralize(len(plan), "sample"), without)
    if unused := plan.counts.get("captions_unused"):
        ctx.log("%s of no image", pluralize(unused, "kept caption"))
    if plan.rejected:
        rows = [{"id": None, "source": s.key, "caption": s.caption, **_reason_columns(s.error)} for s in plan.rejected]
        ctx.write_table("quarantine-set.parquet", pa.Table.from_pylist(rows, QUARANTINE))

    def address(start: int, stop: int) -> str:
        return ctx.row_config.address(plan.rows(start, stop))

    size = ctx.recipe.synthesis.shard_size
    addressed = plan.reusable and not any(each.teacher == "files" for each in ctx.recipe.synthesis.each)
    shards = split_rows(len(plan), size, "images", "quarantine", address=address if addressed else None)
    ctx.run_shards(shards, SynthesisWorker, plan)
    if ctx.recipe.synthesis.recaption is not None:
        write_recaptions(ctx)
    _summarize(ctx, plan)


class SynthesisWorker:
    """Makes the images of a shard: a table of those that succeeded, and one of the others."""

    def __init__(self, ctx: StageContext, plan: SynthesisPlan) -> None:
        self.ctx, self.plan, self.images = ctx, plan, plan.load_source(ctx)
        self.earlier = ctx.earlier_rows("^images", ("caption", "seed")) if plan.reusable else None
        self.schema = schema(FIELDS | dict.fromkeys(source_fields(ctx.recipe), pa.string()))

    def __call__(self, shard: RowRangeShard) -> None:
        images, quarantine = [], []
        rows = self.plan.rows(shard.start, shard.stop)
        known = self._known(rows)
        made = self.images([row["id"] for row in rows if row["id"] not in known])
        for row in rows:
            result = known.get(row["id"]) or next(made)
            if isinstance(result, Rejected):
                source = {name: row[name] for name in ("id", "source", "caption")}
                quarantine.append(source | _reason_columns(result))
            else:
                image = {"bytes": result, "path": f"{row['id']:09d}.{suffix_of(result)}"}
                images.append(row | {"image": image, "sha256": hashlib.sha256(result).hexdigest()})
        images_file, quarantine_file = shard.files
        self.ctx.write_table(quarantine_file, pa.Table.from_pylist(quarantine, QUARANTINE), address=shard.address)
        table = pa.Table.from_pylist(images, self.schema)
        self.ctx.write_table(images_file, table, address=shard.address, reused=len(known))

    def _known(self, rows: list[dict[str, Any]]) -> dict[int, bytes]:
        """Return the encoded images, by id, that earlier artifacts hold."""
        if self.earlier is None:
            return {}
        rows = [row for row in rows if row["seed"] is not None]  # without those of an image set
        types = {"caption": pa.string(), "seed": pa.int64()}
        wanted = pa.Table.from_pylist([{name: row[name] for name in types} for row in rows], pa.schema(types))
        found, positions = self.earlier.take(wanted, ["image"])
        images = found["image"].to_pylist() if len(positions) else []
        return {rows[position]["id"]: image["bytes"] for position, image in zip(positions, images, strict=True)}


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
    if fields := source_fields(ctx.recipe):
        names = sorted(name for name in records if name.startswith("images"))
        rows = pa.concat_tables(read_file(ctx.artifact, name, fields) for name in names)
        ctx.metrics |= {f"images_by_{name}": dict(sorted(Counter(rows[name].to_pylist()).items())) for name in fields}
    if ctx.recipe.synthesis.recaption is not None:
        ctx.metrics["recaptions"] = recaption_metrics(ctx)
    for name, planned in ctx.metrics.get("teachers", {}).items():
        if planned["planned"] < planned["wanted"]:
            ctx.log("%s ran dry: %d of the %d images of its weight", name, planned["planned"], planned["wanted"])
    if quarantined:
        summary = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        ctx.log("%s, %d in quarantine: %s", pluralize(images, "image"), quarantined, summary)
