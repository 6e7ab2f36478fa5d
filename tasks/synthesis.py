"""synthesis: captions -> the teacher's pictures, in Parquet shards that `datasets` opens with an Image feature."""

import hashlib

import pyarrow as pa

from lightgen_core.captions import assign_images
from lightgen_core.pictures import to_png
from lightgen_core.seeds import seed_of
from lightgen_core.teacher import SceneTeacher
from storage.artifact import Artifact
from storage.tables import IMAGE, read_table, schema
from tasks.stage import Job, stage

SCHEMA = schema(
    {
        "id": pa.int64(),
        "image": IMAGE,
        "caption": pa.string(),
        "topic": pa.string(),
        "meaning": pa.string(),
        "caption_id": pa.int64(),
        "seed": pa.int64(),
        "sha256": pa.string(),
    }
)


@stage(version=1, reads=("seed", "world", "synthesis"), on_device=True)
def synthesis(job: Job, captions: Artifact) -> None:
    """Write `images-*.parquet`. Every picture has a seed of its own, so neither batch nor shard changes it."""
    asked = job.recipe.synthesis
    said = read_table(captions, "^captions")
    source = assign_images(said["topic"].to_pylist(), asked.count, asked.balance)
    teacher = SceneTeacher(job.recipe.world)
    for shard in job.shards(asked.count, asked.shard_size, "images"):
        ids = range(shard.start, shard.stop)
        rows = said.take(source[shard.start : shard.stop])
        seeds = [seed_of(job.recipe.seed, "synthesis", image) for image in ids]
        encoded = [to_png(picture) for picture in teacher.draw(rows["caption"].to_pylist(), seeds)]
        columns = {
            "id": ids,
            "image": [{"bytes": data, "path": f"{image:09d}.png"} for image, data in zip(ids, encoded, strict=True)],
            "caption": rows["caption"],
            "topic": rows["topic"],
            "meaning": rows["meaning"],
            "caption_id": rows["id"],
            "seed": seeds,
            "sha256": [hashlib.sha256(data).hexdigest() for data in encoded],
        }
        job.write_table(shard.name, pa.table(columns, SCHEMA))
