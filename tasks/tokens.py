"""tokens: kept images and captions -> pre-tokenized Parquet: latents, text states, text lengths."""

import numpy as np
import pyarrow as pa

from lightgen_core.data.token_rows import (
    add_mirrored_rows,
    encode_captions,
    encode_latents,
    image_batches,
    values_to_bytes,
)
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import read_file, read_table, schema
from tasks.context.context import StageContext
from tasks.context.shards import FileShard, shard_per_file
from tasks.stage import stage
from tasks.token_files import COLUMN_TYPES, check_codec, file_prefix, layout_metadata, log_disk_estimate


@stage(
    version=3,
    config_sections=("tokens",),
    weights=lambda recipe: (recipe.tokens.codec, recipe.tokens.text_encoder),
    on_device=True,
)
def tokens(ctx: StageContext, synthesis: Artifact, dedup: Artifact) -> None:
    """Write `tokens-*.parquet`, one for each shard of images; of several sizes, a set of such files for each.

    A caption is encoded once in a shard, whatever the number of sizes. On request an image whose caption allows it has
    a second row, `flipped`, with the latents of its mirror image, and a column `std` holds the standard deviations of
    the latents, which are their means.
    """
    names = [file_prefix(size) for size in ctx.recipe.tokens.sizes or (None,)]
    ctx.run_shards(shard_per_file(synthesis, "^images", *names), TokenWorker, synthesis, dedup)
    if truncated := sum(entry.counts.get("captions_truncated", 0) for entry in ctx.records().values()):
        length = ctx.recipe.tokens.max_text_tokens
        ctx.log("%s cut at %d text tokens; see tokens.max_text_tokens", pluralize(truncated, "caption"), length)


class TokenWorker:
    """Encodes a shard of images and their captions, at every size."""

    def __init__(self, ctx: StageContext, synthesis: Artifact, dedup: Artifact) -> None:
        from lightgen_core.encoders.autoencoder import LatentCodec
        from lightgen_core.encoders.dtypes import PRECISIONS
        from lightgen_core.encoders.text_encoder import TextEncoder

        self.ctx, self.config, self.synthesis = ctx, ctx.recipe.tokens, synthesis
        self.codec = LatentCodec.load(
            self.config.codec, device=ctx.device(), dtype=PRECISIONS[self.config.codec_precision]
        )
        check_codec(self.config, self.codec)
        self.text_encoder = TextEncoder.load(
            self.config.text_encoder,
            max_length=self.config.max_text_tokens,
            layer=self.config.text_layer,
            device=ctx.device(),
            dtype=PRECISIONS[self.config.text_precision],
        )
        verdicts = read_table(dedup, "^keep", ["id", "kept"])
        self.kept_ids = pa.array(verdicts["id"].to_pylist()).filter(verdicts["kept"].combine_chunks())

    def __call__(self, shard: FileShard) -> None:
        import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

        config, images = self.config, read_file(self.synthesis, shard.source)
        if shard.number == 0:
            log_disk_estimate(self.ctx, images, self.codec, self.text_encoder.width, len(self.kept_ids))
        rows = images.filter(pc.is_in(images["id"], self.kept_ids))
        rows, flipped = add_mirrored_rows(rows) if config.flip else (rows, np.zeros(len(rows), bool))
        captions = rows["caption"].to_pylist()
        text, counts = encode_captions(self.text_encoder, captions, pad=config.pad_text, dtype=config.dtype)
        encoded = self._encode(rows, flipped)
        if not encoded:  # a shard that lost every image still stores the layout
            example = self._encode(images.slice(0, 1), np.zeros(1, bool))
            encoded = [{key: values[:0] for key, values in latents.items()} for latents in example]
        for latents, name in zip(encoded, shard.files, strict=True):
            columns = {
                "id": rows["id"],
                "caption": rows["caption"],
                "topic": rows["topic"],
                "flipped": flipped,
                **values_to_bytes(latents, config.dtype),
                **text,
            }
            metadata = layout_metadata(latents, config.dtype, self.text_encoder.width)
            types = schema({column: COLUMN_TYPES[column] for column in columns}, metadata)
            self.ctx.write_table(name, pa.table(columns, types), counts)
            counts = {}  # of captions; a size has its own images, not its own captions

    def _encode(self, rows: pa.Table, flipped: np.ndarray) -> list[dict[str, np.ndarray]]:
        sizes, threads = self.config.sizes or (None,), self.ctx.settings.threads
        batches = image_batches(rows, flipped, self.config.batch_size, sizes, threads)
        return encode_latents(self.codec, batches, moments=self.config.latents == "moments")
