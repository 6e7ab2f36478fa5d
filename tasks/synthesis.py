"""synthesis: captions -> the teacher's pictures, in Parquet shards that `datasets` opens with an Image feature."""

import hashlib
from collections import Counter

import pyarrow as pa

from lightgen_core.images.codec import suffix_of
from lightgen_core.rejected import Rejected
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import IMAGE, schema
from tasks.config.recipe import Recipe
from tasks.context.context import Job
from tasks.context.shards import Run, runs
from tasks.stage import stage
from tasks.synthesis_plan import Work, work_of

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


class NothingDrawn(Exception):
    """Not one picture could be had."""


def _weights(recipe: Recipe) -> tuple[str, ...]:
    asked = recipe.synthesis
    return (asked.diffusers.model,) if asked.teacher == "diffusers" and asked.diffusers else ()


def _files(recipe: Recipe) -> tuple[str, ...]:
    asked = recipe.synthesis
    return (asked.files.path,) if asked.teacher == "files" and asked.files else ()


@stage(
    version=3,
    reads=("seed", "world", "synthesis"),
    weights=_weights,
    files=_files,
    on_device=lambda recipe: recipe.synthesis.teacher == "diffusers",
)
def synthesis(job: Job, captions: Artifact) -> None:
    """Write `images-*.parquet`, and in `quarantine-*.parquet` what could not be had, with the reason.

    Every picture is planned before the first is made, with its id and seed, so neither batch nor shard nor a failure
    changes another. The id of a picture in the quarantine stays unused.
    """
    work = work_of(job.recipe, captions)
    if "caption_filtered_out" in work.counts:
        job.say(
            "%s with a kept caption, %d without", pluralize(len(work), "sample"), work.counts["caption_filtered_out"]
        )
    if work.faults:
        rows = [{"id": None, "source": f.key, "caption": f.caption, **_told(f.why)} for f in work.faults]
        job.write_table("quarantine-set.parquet", pa.Table.from_pylist(rows, QUARANTINE))
    job.each(runs(len(work), job.recipe.synthesis.shard_size, "images", "quarantine"), Painter, work)
    _conclude(job, work)


class Painter:
    """Makes the pictures of a shard: the table of those that came, and the table of the others."""

    def __init__(self, job: Job, work: Work) -> None:
        self.job, self.work, self.pictures = job, work, work.opened(job)

    def __call__(self, shard: Run) -> None:
        images, quarantine = [], []
        rows, pictures = self.work.rows(shard.start, shard.stop), self.pictures(shard.start, shard.stop)
        for row, made in zip(rows, pictures, strict=True):
            if isinstance(made, Rejected):
                quarantine.append({name: row[name] for name in ("id", "source", "caption")} | _told(made))
            else:
                picture = {"bytes": made, "path": f"{row['id']:09d}.{suffix_of(made)}"}
                images.append(row | {"image": picture, "sha256": hashlib.sha256(made).hexdigest()})
        first, second = shard.files
        self.job.write_table(second, pa.Table.from_pylist(quarantine, QUARANTINE))
        self.job.write_table(first, pa.Table.from_pylist(images, SCHEMA))


def _told(why: Rejected) -> dict[str, str]:
    """Return a reason as columns; what a server or a file says may hold characters that UTF-8 has no form for."""
    return {"reason": why.reason, "detail": why.detail[:500].encode(errors="backslashreplace").decode()}


def _conclude(job: Job, work: Work) -> None:
    """Count what was made and what was not. Raises NothingDrawn if nothing was made."""
    records = job.records()
    made = sum(entry.rows for name, entry in records.items() if name.startswith("images"))
    gone = sum(entry.rows for name, entry in records.items() if name.startswith("quarantine"))
    reasons = Counter(job.written("^quarantine")["reason"].to_pylist()) if gone else Counter()
    if not made:
        often = f", most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        raise NothingDrawn(
            f"not one picture: {gone} in quarantine{often}; {work.counts or 'nothing'} left out.\n"
            f"See {job.artifact.uri}/quarantine-*.parquet; when the cause is gone, run with --refresh synthesis."
        )
    job.counts = {"rows": made, "quarantined": gone} | work.counts
    job.figures = {"quarantine": dict(sorted(reasons.items()))} | work.figures
    if gone:
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        job.say("%s, %d in quarantine: %s", pluralize(made, "picture"), gone, why)
