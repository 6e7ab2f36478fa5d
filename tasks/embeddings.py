"""embeddings: pictures and captions -> CLIP embeddings and the text-image score."""

import time

import numpy as np
import pyarrow as pa

from lightgen_core.pictures import from_bytes
from storage.artifact import Artifact
from storage.tables import schema
from tasks.job import Job
from tasks.stage import stage


@stage(version=2, reads=("embeddings",), weights=lambda recipe: (recipe.embeddings.model,), on_device=True)
def embeddings(job: Job, synthesis: Artifact) -> None:
    """Write `embeddings-*.parquet`, one for each shard of pictures: unit vectors and their cosine, the score."""
    from lightgen_core.clip import Clip

    asked = job.recipe.embeddings
    clip = Clip.load(asked.model, device=job.device(), precision=asked.precision)
    width = clip.width
    columns = schema(
        {
            "id": pa.int64(),
            "image": pa.list_(pa.float32(), width),
            "text": pa.list_(pa.float32(), width),
            "score": pa.float32(),
        }
    )
    for name, shard in job.mirrored(synthesis, "^images", "embeddings"):
        started = time.monotonic()
        pictures = shard["image"].combine_chunks().field("bytes").to_pylist()
        image = np.concatenate(
            [
                clip.embed_pictures([from_bytes(data) for data in pictures[start : start + asked.batch_size]])
                for start in range(0, len(pictures), asked.batch_size)
            ]
        )
        unique, back = np.unique(shard["caption"].to_pylist(), return_inverse=True)
        text = clip.embed_texts(unique.tolist())[back]
        vectors = {
            "id": shard["id"],
            "image": pa.FixedSizeListArray.from_arrays(image.ravel(), width),
            "text": pa.FixedSizeListArray.from_arrays(text.ravel(), width),
            "score": (image * text).sum(axis=1),
        }
        job.write_table(name, pa.table(vectors, columns))
        job.say("%d images at %.1f images/s", len(pictures), len(pictures) / (time.monotonic() - started))
