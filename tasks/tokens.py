"""tokens: images and captions -> pre-tokenized Parquet: latents, text states, text lengths."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lightgen_core.data.token_rows import (
    add_mirrored_rows,
    encode_captions,
    encode_latents,
    image_batches,
    values_to_bytes,
)
from lightgen_core.images.codec import image_shape
from lightgen_core.images.parallel import encoded_bytes
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.rows import rows_at
from storage.tables import read_file, read_table, schema
from tasks.context.context import StageContext
from tasks.context.reuse import merge_rows
from tasks.context.shards import FileShard, RowRangeShard, Shard, shard_per_file, split_rows
from tasks.stage import stage
from tasks.synthesis import source_fields
from tasks.token_files import (
    COLUMN_TYPES,
    Bucket,
    bucket_numbers,
    buckets_of,
    check_codec,
    check_latents,
    encoders_of,
    latent_layout,
    load_feature_maps,
    log_disk_estimate,
    value_columns,
)
from tasks.token_recaptions import mirrors_hold, recaption_digests, recaption_texts, with_recaption_ids

TEXT_SHARD = 1024
"""Captions of a file of text states: at 120 tokens of 4,096 values, 1 GB."""

KEYS = ("sha256", "flipped")
"""Columns that decide a row's latents."""


@stage(
    version=4,
    config_sections=("tokens",),
    weights=lambda recipe: encoders_of(recipe.tokens),
    on_device=True,
)
def tokens(ctx: StageContext, synthesis: Artifact) -> None:
    """Write `text-*.parquet`, a row for each caption, and `tokens-*.parquet`, one for each shard of images.

    Of several sizes, there is a set of such files for each, and of several buckets one for each of them, in which every
    image is in the files of one bucket. Every image is encoded, whatever dedup keeps: training chooses. Rows of images
    that an earlier artifact holds are taken from there. On request an image whose caption allows it has a second row,
    `flipped`, with the latents of its mirror image, and a column `std` holds the standard deviations of the latents,
    which are their means; a column `features` those of a frozen image encoder, for each token of the same pixels.
    """
    captions = captions_of(synthesis)

    def address(start: int, stop: int) -> str:
        return ctx.row_config.address(captions.slice(start, stop - start).to_pylist())

    ctx.run_shards(split_rows(len(captions), TEXT_SHARD, "text", address=address), TextWorker, synthesis)
    recaptions: dict[str, str] = {}
    if ctx.recipe.synthesis.recaption is not None:
        recaptions = recaption_digests(synthesis)
        shards = shard_per_file(synthesis, "^recaptions", "recaption-text", address=ctx.row_config.address)
        ctx.run_shards(shards, RecaptionTextWorker, synthesis)
    buckets = _buckets(ctx)
    prefixes = [prefix for bucket in buckets for prefix in bucket.file_prefixes(ctx.recipe.tokens)]

    def image_address(sha256: str) -> str:
        return ctx.row_config.address(sha256, *([recaptions[sha256]] if recaptions else []))

    shards = shard_per_file(synthesis, "^images", *prefixes, address=image_address)
    ctx.run_shards(shards, LatentWorker, synthesis)
    records = ctx.records()
    ctx.counts = {"rows": sum(entry.rows for name, entry in records.items() if name.startswith("tokens"))}
    for bucket in buckets if ctx.recipe.tokens.buckets else ():
        prefix = bucket.file_prefixes(ctx.recipe.tokens)[0]
        rows = sum(entry.rows for name, entry in records.items() if name.startswith(f"{prefix}-"))
        ctx.counts[f"rows_{bucket.ratio}"] = rows
        ctx.log("bucket %s, %s: %s", bucket.ratio, bucket, pluralize(rows, "row"))
    if truncated := sum(entry.counts.get("captions_truncated", 0) for entry in records.values()):
        length = ctx.recipe.tokens.max_text_tokens
        ctx.log("%s cut at %d text tokens; see tokens.max_text_tokens", pluralize(truncated, "caption"), length)


def captions_of(synthesis: Artifact) -> pa.Table:
    """Return id and text of the images' captions, by ascending id."""
    table = read_table(synthesis, "^images", ["caption_id", "caption"])
    ids, first = np.unique(table["caption_id"].to_numpy(), return_index=True)
    return pa.table({"id": ids, "caption": table["caption"].take(first)})


class TextWorker:
    """Encodes a shard of captions."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        from lightgen_core.encoders.dtypes import PRECISIONS
        from lightgen_core.encoders.text_encoder import TextEncoder

        self.ctx, self.config, self.captions = ctx, ctx.recipe.tokens, captions_of(synthesis)
        self.text_encoder = TextEncoder.load(
            self.config.text_encoder,
            max_length=self.config.max_text_tokens,
            layer=self.config.text_layer,
            device=ctx.device(),
            dtype=PRECISIONS[self.config.text_precision],
        )

    def __call__(self, shard: RowRangeShard) -> None:
        self.write(shard, self.captions.slice(shard.start, shard.rows))

    def write(self, shard: Shard, rows: pa.Table) -> None:
        """Write the text states of captions, with columns `id` and `caption`."""
        config, captions = self.config, rows["caption"].to_pylist()
        text, counts = encode_captions(self.text_encoder, captions, pad=config.pad_text, dtype=config.dtype)
        columns = {"id": rows["id"], "caption": rows["caption"], **text}
        layout = {"dtype": config.dtype, "text_width": self.text_encoder.width}
        table = pa.table(columns, schema({name: COLUMN_TYPES[name] for name in columns}, layout))
        self.ctx.write_table(shard.name, table, counts, address=shard.address)


class RecaptionTextWorker(TextWorker):
    """Encodes a shard of recaptions."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        super().__init__(ctx, synthesis)
        self.synthesis = synthesis

    def __call__(self, shard: Shard) -> None:
        assert isinstance(shard, FileShard), "one for each file of recaptions"
        self.write(shard, recaption_texts(self.synthesis, shard.source))


class LatentWorker:
    """Encodes a shard of images, at every size, each in its bucket."""

    def __init__(self, ctx: StageContext, synthesis: Artifact) -> None:
        from lightgen_core.encoders.autoencoder import LatentCodec
        from lightgen_core.encoders.dtypes import PRECISIONS

        self.ctx, self.config, self.synthesis = ctx, ctx.recipe.tokens, synthesis
        precision = PRECISIONS[self.config.codec_precision]
        self.codec = LatentCodec.load(self.config.codec, device=ctx.device(), dtype=precision)
        check_codec(self.config, self.codec)
        self.buckets = buckets_of(self.config, self.codec.stride)
        self.features = load_feature_maps(ctx)
        self.values = value_columns(self.config)
        self.earlier = [
            [ctx.earlier_rows(f"^{prefix}-[0-9]+[.]", KEYS) for prefix in bucket.file_prefixes(self.config)]
            for bucket in self.buckets
        ]

    def __call__(self, shard: FileShard) -> None:
        columns = ["id", "caption_id", "caption", "topic", *source_fields(self.ctx.recipe), "sha256", "image"]
        images, mirrors = read_file(self.synthesis, shard.source, columns), None
        if self.ctx.recipe.synthesis.recaption is not None:
            images = with_recaption_ids(self.synthesis, shard.source, images)
            mirrors = mirrors_hold(self.synthesis, shard.source) if self.config.flip else None
        example = images["image"][0]["bytes"].as_py()
        if shard.number == 0:
            count = self.synthesis.manifest().counts["rows"] * (2 if self.config.flip else 1)
            log_disk_estimate(self.ctx, example, count, self.codec, self.feature_channels)
        rows, flipped = (
            add_mirrored_rows(images, mirrors) if self.config.flip else (images, np.zeros(len(images), bool))
        )
        rows = rows.append_column("flipped", pa.array(flipped))
        numbers = bucket_numbers(self.config, encoded_bytes(rows["image"]))
        files = iter(shard.files)
        for number, bucket in enumerate(self.buckets):
            chosen = rows.filter(pa.array(numbers == number)) if len(self.buckets) > 1 else rows
            for shape, (latents, reused) in zip(bucket.shapes, self._latents(chosen, number), strict=True):
                layout = latent_layout(self.config, self.codec, shape or image_shape(example), self.feature_channels)
                self._write(next(files), shard, chosen, latents, layout, reused)

    @property
    def feature_channels(self) -> int:
        """Values of a token's features; 0 without any."""
        return 0 if self.features is None else self.features.channels

    def _write(
        self, name: str, shard: FileShard, rows: pa.Table, columns: pa.Table, layout: dict[str, object], reused: int
    ) -> None:
        """Write one file: what training reads of the rows, and columns of their latents."""
        check_latents(columns, layout, rows["id"])
        names = [name for name in COLUMN_TYPES if name in rows.column_names]
        table = pa.table(
            {column: rows[column] for column in names} | {column: columns[column] for column in self.values},
            schema({column: COLUMN_TYPES[column] for column in (*names, *self.values)}, layout),
        )
        self.ctx.write_table(name, table, address=shard.address, reused=reused)

    def _latents(self, rows: pa.Table, number: int) -> Iterator[tuple[pa.Table, int]]:
        """Yield for each size the latents of a bucket's rows, and how many earlier artifacts held.

        An image is decoded once.
        """
        known = [earlier.take(rows.select(KEYS), self.values) for earlier in self.earlier[number]]
        positions = known[0][1]  # an artifact of this configuration has every size of an image
        missing = np.setdiff1d(np.arange(len(rows)), positions)
        made = self._encode(rows_at(rows, missing), self.buckets[number]) if len(missing) else [self._none] * len(known)
        for (found, _), encoded in zip(known, made, strict=True):
            yield merge_rows(found if len(positions) else self._none, positions, encoded, missing), len(positions)

    @property
    def _none(self) -> pa.Table:
        """Return no latents."""
        return pa.table({name: pa.array([], pa.binary()) for name in self.values})

    def _encode(self, rows: pa.Table, bucket: Bucket) -> list[pa.Table]:
        """Return the rows' latents at each size."""
        batch_size, threads = self.config.batch_size, self.ctx.settings.threads
        batches = image_batches(rows, rows["flipped"].to_numpy(), batch_size, bucket.shapes, threads)
        latents = encode_latents(
            self.codec,
            batches,
            batch_size,
            moments=self.config.latents == "moments",
            features=self.features,
            patch=self.config.patch,
        )
        return [pa.table(values_to_bytes(values, self.config.dtype)) for values in latents]


def _buckets(ctx: StageContext) -> list[Bucket]:
    """Return the recipe's buckets; only to know their shapes is the autoencoder's configuration read."""
    stride = 1
    if ctx.recipe.tokens.buckets:
        from lightgen_core.encoders.autoencoder import LatentCodec

        stride = LatentCodec.stride_of(ctx.recipe.tokens.codec)
    return buckets_of(ctx.recipe.tokens, stride)
