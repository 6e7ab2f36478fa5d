"""embeddings: images and captions -> CLIP embeddings and the text-image score."""

import time

import numpy as np
import pyarrow as pa

from lightgen_core.images.parallel import decode_batches, encoded_bytes
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.rows import rows_at
from storage.tables import read_file, schema
from tasks.context.context import StageContext
from tasks.context.shards import FileShard, shard_per_file
from tasks.stage import stage

COPY_FEATURES = {"pixels": pa.string(), "hashes": pa.binary(), "thumbnail": pa.binary()}
"""Columns of `dedup/copy_features.py`."""

KEYS = ("sha256", "caption")
"""Columns that decide a row's values."""


@stage(version=4, config_sections=("embeddings",), weights=lambda recipe: (recipe.embeddings.model,), on_device=True)
def embeddings(ctx: StageContext, synthesis: Artifact) -> None:
    """Write `embeddings-*.parquet`, one for each shard of images: unit vectors, their cosine, copy features.

    Rows of images and captions that an earlier artifact holds are taken from there.
    """
    shards = shard_per_file(synthesis, "^images", "embeddings", address=ctx.row_config.address)
    ctx.run_shards(shards, EmbeddingWorker, synthesis)


class EmbeddingWorker:
    """Embeds a shard of images and their captions."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        from lightgen_core.encoders.clip import Clip

        config = ctx.recipe.embeddings
        self.ctx, self.synthesis, self.batch_size = ctx, synthesis, config.batch_size
        self.clip = Clip.load(
            config.model,
            device=ctx.device(),
            precision=config.precision,
            batch_size=config.batch_size,
            fill_batches=True,
        )
        self.earlier = ctx.earlier_rows("^embeddings", KEYS)

    def __call__(self, shard: FileShard) -> None:
        started = time.monotonic()
        rows = read_file(self.synthesis, shard.source, ["id", "image", *KEYS])
        vector = pa.list_(pa.float32(), self.clip.width)
        fields = {"id": pa.int64(), **dict.fromkeys(KEYS, pa.string()), "image": vector, "text": vector}
        types = schema(fields | {"score": pa.float32()} | COPY_FEATURES)
        columns = [name for name in types.names if name not in ("id", *KEYS)]
        values, reused = self.earlier.complete(
            rows.select(KEYS), columns, lambda positions: self._embed(rows_at(rows, positions))
        )
        columns_of = {name: rows[name] for name in ("id", *KEYS)} | {name: values[name] for name in columns}
        self.ctx.write_table(shard.name, pa.table(columns_of, types), address=shard.address, reused=reused)
        rate = len(rows) / (time.monotonic() - started)
        self.ctx.log("%s at %.1f images/s", pluralize(len(rows), "image"), rate)

    def _embed(self, rows: pa.Table) -> pa.Table:
        """Return vectors, scores and copy features of images and captions."""
        from lightgen_core.dedup.copy_features import copy_features

        encoded = encoded_bytes(rows["image"])
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
        return pa.table(
            {
                "image": pa.FixedSizeListArray.from_arrays(image.ravel(), self.clip.width),
                "text": pa.FixedSizeListArray.from_arrays(text.ravel(), self.clip.width),
                "score": (image * text).sum(axis=1),
                **dict(zip(COPY_FEATURES, map(list, zip(*copies, strict=True)), strict=True)),
            }
        )
