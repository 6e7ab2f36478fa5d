"""embeddings: pictures and captions -> CLIP embeddings and the text-image score."""

import time

import numpy as np
import pyarrow as pa

from lightgen_core.images.codec import from_bytes
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import read_file, schema
from tasks.context.context import Job
from tasks.context.shards import Counterpart, counterparts
from tasks.stage import stage


@stage(version=2, reads=("embeddings",), weights=lambda recipe: (recipe.embeddings.model,), on_device=True)
def embeddings(job: Job, synthesis: Artifact) -> None:
    """Write `embeddings-*.parquet`, one for each shard of pictures: unit vectors and their cosine, the score."""
    job.each(counterparts(synthesis, "^images", "embeddings"), Embedder, synthesis)


class Embedder:
    """Embeds a shard of pictures and their captions."""

    def __init__(self, job: Job, synthesis: Artifact) -> None:
        from lightgen_core.encoders.clip import Clip

        asked = job.recipe.embeddings
        self.job, self.synthesis, self.batch_size = job, synthesis, asked.batch_size
        self.clip = Clip.load(asked.model, device=job.device(), precision=asked.precision)

    def __call__(self, shard: Counterpart) -> None:
        started, width = time.monotonic(), self.clip.width
        given = read_file(self.synthesis, shard.source)
        pictures = given["image"].combine_chunks().field("bytes").to_pylist()
        batches = [pictures[start : start + self.batch_size] for start in range(0, len(pictures), self.batch_size)]
        image = np.concatenate([self.clip.embed_pictures([from_bytes(data) for data in batch]) for batch in batches])
        unique, back = np.unique(given["caption"].to_pylist(), return_inverse=True)
        text = self.clip.embed_texts(unique.tolist())[back]
        vectors = {
            "id": given["id"],
            "image": pa.FixedSizeListArray.from_arrays(image.ravel(), width),
            "text": pa.FixedSizeListArray.from_arrays(text.ravel(), width),
            "score": (image * text).sum(axis=1),
        }
        vector = pa.list_(pa.float32(), width)
        columns = schema({"id": pa.int64(), "image": vector, "text": vector, "score": pa.float32()})
        self.job.write_table(shard.name, pa.table(vectors, columns))
        rate = len(pictures) / (time.monotonic() - started)
        self.job.say("%s at %.1f images/s", pluralize(len(pictures), "image"), rate)
