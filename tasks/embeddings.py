"""embeddings: pictures and captions -> CLIP embeddings and the text-image score."""

import time

import numpy as np
import pyarrow as pa

from lightgen_core.images.codec import from_bytes
from storage.artifact import Artifact
from storage.plural import counted
from storage.tables import read_file, schema
from tasks.context.context import StageContext
from tasks.context.shards import FileShard, shard_per_file
from tasks.stage import stage


@stage(version=2, config_sections=("embeddings",), weights=lambda recipe: (recipe.embeddings.model,), on_device=True)
def embeddings(ctx: StageContext, synthesis: Artifact) -> None:
    """Write `embeddings-*.parquet`, one for each shard of pictures: unit vectors and their cosine, the score."""
    ctx.run_shards(shard_per_file(synthesis, "^images", "embeddings"), EmbeddingWorker, synthesis)


class EmbeddingWorker:
    """Embeds a shard of pictures and their captions."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        from lightgen_core.encoders.clip import Clip

        asked = ctx.recipe.embeddings
        self.ctx, self.synthesis, self.batch_size = ctx, synthesis, asked.batch_size
        self.clip = Clip.load(asked.model, device=ctx.device(), precision=asked.precision)

    def __call__(self, shard: FileShard) -> None:
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
        self.ctx.write_table(shard.name, pa.table(vectors, columns))
        rate = len(pictures) / (time.monotonic() - started)
        self.ctx.log("%s at %.1f images/s", counted(len(pictures), "image"), rate)
