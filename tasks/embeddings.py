"""embeddings: images and captions -> CLIP embeddings and the text-image score."""

import time

import numpy as np
import pyarrow as pa

from lightgen_core.images.parallel import decode_batches
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import read_file, schema
from tasks.context.context import StageContext
from tasks.context.shards import FileShard, shard_per_file
from tasks.stage import stage

COPY_FEATURES = {"pixels": pa.string(), "hashes": pa.binary(), "thumbnail": pa.binary()}
"""Columns of `dedup/copy_features.py`."""


@stage(version=3, config_sections=("embeddings",), weights=lambda recipe: (recipe.embeddings.model,), on_device=True)
def embeddings(ctx: StageContext, synthesis: Artifact) -> None:
    """Write `embeddings-*.parquet`, one for each shard of images: unit vectors, their cosine, copy features."""
    ctx.run_shards(shard_per_file(synthesis, "^images", "embeddings"), EmbeddingWorker, synthesis)


class EmbeddingWorker:
    """Embeds a shard of images and their captions."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        from lightgen_core.encoders.clip import Clip

        config = ctx.recipe.embeddings
        self.ctx, self.synthesis, self.batch_size = ctx, synthesis, config.batch_size
        self.clip = Clip.load(config.model, device=ctx.device(), precision=config.precision)

    def __call__(self, shard: FileShard) -> None:
        from lightgen_core.dedup.copy_features import copy_features

        started, width = time.monotonic(), self.clip.width
        rows = read_file(self.synthesis, shard.source)
        encoded = rows["image"].combine_chunks().field("bytes").to_pylist()
        ids, threads = rows["id"].to_pylist(), self.ctx.settings.threads
        vectors, copies = [], []
        for batch in decode_batches(
            encoded, ids, self.batch_size, threads, lambda image: (image, copy_features(image))
        ):
            decoded, features = zip(*batch, strict=True)
            vectors.append(self.clip.embed_image_list(decoded))
            copies += features
        image = np.concatenate(vectors)
        captions, inverse = np.unique(rows["caption"].to_pylist(), return_inverse=True)
        text = self.clip.embed_texts(captions.tolist())[inverse]
        columns = {
            "id": rows["id"],
            "image": pa.FixedSizeListArray.from_arrays(image.ravel(), width),
            "text": pa.FixedSizeListArray.from_arrays(text.ravel(), width),
            "score": (image * text).sum(axis=1),
            **dict(zip(COPY_FEATURES, map(list, zip(*copies, strict=True)), strict=True)),
        }
        vector = pa.list_(pa.float32(), width)
        types = schema({"id": pa.int64(), "image": vector, "text": vector, "score": pa.float32()} | COPY_FEATURES)
        self.ctx.write_table(shard.name, pa.table(columns, types))
        rate = len(encoded) / (time.monotonic() - started)
        self.ctx.log("%s at %.1f images/s", pluralize(len(encoded), "image"), rate)
