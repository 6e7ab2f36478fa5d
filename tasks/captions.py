"""captions: a caption source -> diversified captions with topic tags, near-duplicates removed."""

from collections import Counter

import numpy as np
import pyarrow as pa

from lightgen_core.captions import choose_captions, scene_captions
from lightgen_core.seeds import seed_of
from storage.tables import schema
from tasks.stage import Job, stage

SCHEMA = schema(
    {"id": pa.int64(), "caption": pa.string(), "topic": pa.string(), "meaning": pa.string(), "source": pa.string()}
)
DROPPED = schema({"caption": pa.string(), "topic": pa.string(), "duplicate_of": pa.int64(), "similarity": pa.float32()})


@stage(version=1, reads=("seed", "world", "captions"))
def captions(job: Job) -> None:
    """Write `captions.parquet` (what is drawn) and `dropped.parquet` (what was said before)."""
    asked = job.recipe.captions
    seed = seed_of(job.recipe.seed, "captions")
    topics = scene_captions(job.recipe.world, np.random.default_rng(seed))
    choice = choose_captions(topics, asked.count, asked.near_duplicate, seed)
    if len(choice.chosen) < asked.count:
        job.say("the source ran dry: %d captions of %d wanted", len(choice.chosen), asked.count)
    rows = [
        {"id": i, "caption": said.text, "topic": said.topic, "meaning": said.meaning, "source": asked.source}
        for i, said in enumerate(choice.chosen)
    ]
    dropped = [
        {
            "caption": gone.caption.text,
            "topic": gone.caption.topic,
            "duplicate_of": gone.repeats,
            "similarity": gone.similarity,
        }
        for gone in choice.dropped
    ]
    job.write_table("captions.parquet", pa.Table.from_pylist(rows, SCHEMA))
    job.write_table("dropped.parquet", pa.Table.from_pylist(dropped, DROPPED))
    job.counts = {"rows": len(rows), "dropped": len(dropped)}
    job.figures = {
        "captions_by_topic": dict(Counter(said.topic for said in choice.chosen)),
        "meanings_by_topic": {
            topic: len({said.meaning for said in choice.chosen if said.topic == topic}) for topic in topics
        },
        "distinct_words": len({word for said in choice.chosen for word in said.text.lower().split()}),
    }
