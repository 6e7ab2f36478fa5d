"""tokens: kept pictures and captions -> pre-tokenized Parquet: latents, text states, words."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.images.codec import from_bytes, resize_square
from lightgen_core.images.flip import mirrorable
from storage.artifact import Artifact
from storage.plural import pluralize
from storage.tables import read_file, read_table, schema
from tasks.config.sections import Tokens
from tasks.context.context import Job
from tasks.context.shards import Counterpart, counterparts
from tasks.stage import stage

if TYPE_CHECKING:
    from lightgen_core.encoders.autoencoder import LatentCodec
    from lightgen_core.encoders.text_encoder import TextEncoder

KINDS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "flipped": pa.bool_(),
    "latents": pa.binary(),
    "std": pa.binary(),
    "text": pa.binary(),
    "text_length": pa.int32(),
}


@stage(
    version=3,
    reads=("tokens",),
    weights=lambda recipe: (recipe.tokens.codec, recipe.tokens.text_encoder),
    on_device=True,
)
def tokens(job: Job, synthesis: Artifact, dedup: Artifact) -> None:
    """Write `tokens-*.parquet`, one for each shard of pictures; of several sizes, a set of such files for each.

    A caption is encoded once in a shard, whatever the number of sizes. On request a picture whose caption allows it has
    a second row, `flipped`, with the latents of its mirror image, and a column `std` holds the standard deviations of
    the latents, which are their means.
    """
    names = [_prefix(size) for size in job.recipe.tokens.sizes or (None,)]
    job.each(counterparts(synthesis, "^images", *names), Encoder, synthesis, dedup)


class Encoder:
    """Encodes a shard of pictures and their captions, at every size."""

    def __init__(self, job: Job, synthesis: Artifact, dedup: Artifact) -> None:
        self.job, self.asked, self.synthesis = job, job.recipe.tokens, synthesis
        self.codec, self.text_encoder = _components(job)
        _check_sizes(self.asked.sizes, self.codec.stride * self.asked.patch)
        _check_moments(self.asked, self.codec)
        verdict = read_table(dedup, "^keep", ["id", "kept"])
        self.keep = pa.array(verdict["id"].to_pylist()).filter(verdict["kept"].combine_chunks())

    def __call__(self, shard: Counterpart) -> None:
        import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

        given = read_file(self.synthesis, shard.source)
        if shard.number == 0:
            _tell_size(self.job, given, self.codec, self.text_encoder.width, len(self.keep))
        rows, flipped = _rows(given.filter(pc.is_in(given["id"], self.keep)), self.asked.flip)
        text, counts = _encode_text(rows["caption"].to_pylist(), self.text_encoder, self.asked)
        for size, name in zip(self.asked.sizes or (None,), shard.files, strict=True):
            whole = _encode(self.codec, self.asked, _pictures(rows, flipped, self.asked.batch_size, size))
            if not whole:  # a shard that lost every picture still tells the layout
                one = _pictures(given.slice(0, 1), np.zeros(1, bool), 1, size)
                whole = {column: values[:0] for column, values in _encode(self.codec, self.asked, one).items()}
            self.job.write_table(name, self._table(rows, flipped, whole, text), counts)
            counts = {}  # of captions; a size has its own pictures, not its own captions

    def _table(self, rows: pa.Table, flipped: np.ndarray, whole: dict[str, np.ndarray], text: pa.Table) -> pa.Table:
        from lightgen_core.encoders.dtypes import to_bytes

        about: dict[str, object] = {"dtype": self.asked.dtype, "text_width": self.text_encoder.width}
        about |= dict(zip(("channels", "height", "width"), whole["latents"].shape[1:], strict=True))
        about |= {"moments": True} if "std" in whole else {}
        columns = {
            "id": rows["id"],
            "caption": rows["caption"],
            "topic": rows["topic"],
            "flipped": flipped,
            **{
                column: pa.array([to_bytes(each, self.asked.dtype) for each in values], pa.binary())
                for column, values in whole.items()
            },
            "text": text["text"],
            "text_length": text["text_length"],
        }
        return pa.table(columns, schema({name: KINDS[name] for name in columns}, about))


def _components(job: Job) -> "tuple[LatentCodec, TextEncoder]":
    from lightgen_core.encoders.autoencoder import LatentCodec
    from lightgen_core.encoders.dtypes import PRECISIONS
    from lightgen_core.encoders.text_encoder import TextEncoder

    asked, device = job.recipe.tokens, job.device()
    return LatentCodec.load(asked.codec, device=device, dtype=PRECISIONS[asked.codec_precision]), TextEncoder.load(
        asked.text_encoder,
        max_length=asked.max_text_tokens,
        layer=asked.text_layer,
        device=device,
        dtype=PRECISIONS[asked.text_precision],
    )


def _tell_size(job: Job, shard: pa.Table, codec: "LatentCodec", text_width: int, kept: int) -> None:
    """Log, before the first picture is encoded, how much disk the rows take at most."""
    asked = job.recipe.tokens
    sides = [(size, size) for size in asked.sizes] or [from_bytes(shard["image"][0]["bytes"].as_py()).shape[:2]]
    rows, text = kept * (2 if asked.flip else 1), 2 * asked.max_text_tokens * text_width
    values = codec.channels * (2 if asked.latents == "moments" else 1)
    each = sum(2 * values * (h // codec.stride) * (w // codec.stride) + text for h, w in sides)
    job.say("at most %s of %d bytes, all sizes together: %.2f GB", pluralize(rows, "row"), each, rows * each / 1e9)


def _rows(rows: pa.Table, flip: bool) -> tuple[pa.Table, np.ndarray]:
    """The rows to write and which of them are mirrored: those that may be, again, after all that are not."""
    if not flip:
        return rows, np.zeros(len(rows), bool)
    again = rows.filter(pa.array([mirrorable(caption) for caption in rows["caption"].to_pylist()], pa.bool_()))
    return pa.concat_tables([rows, again]), np.arange(len(rows) + len(again)) >= len(rows)


def _encode(codec: "LatentCodec", asked: Tokens, batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Return by column what is stored of the latents, (pictures, channels, height, width); of no picture, nothing."""
    moments = asked.latents == "moments"
    parts = [codec.moments(pictures) if moments else (codec.encode(pictures),) for pictures in batches]
    columns = zip(("latents", "std"), zip(*parts, strict=True), strict=False)
    return {column: np.concatenate(values) for column, values in columns}


def _encode_text(said: list[str], text_encoder: "TextEncoder", asked: Tokens) -> tuple[pa.Table, dict[str, int]]:
    """Return a table with the states and the number of words of each caption, and how many were encoded."""
    from lightgen_core.encoders.dtypes import to_bytes

    captions, back = np.unique(said, return_inverse=True)
    states = text_encoder.encode(captions.tolist(), padded=asked.pad_text)
    text = [to_bytes(state, asked.dtype) for state in states]
    columns = {"text": [text[i] for i in back], "text_length": [len(states[i]) for i in back]}
    return pa.table(columns, pa.schema([("text", KINDS["text"]), ("text_length", KINDS["text_length"])])), {
        "captions_encoded": len(captions)
    }


def pattern_of(size: int | None) -> str:
    """Return what names the files with pictures of one of the recipe's sizes, px; None: of a recipe without sizes."""
    return rf"^{_prefix(size)}-\d+\."


def _prefix(size: int | None) -> str:
    return "tokens" if size is None else f"tokens-{size}px"


def _check_sizes(sizes: Sequence[int], side: int) -> None:
    if uneven := [size for size in sizes if size % side]:
        raise ValueError(f"tokens.sizes: a picture of {uneven[0]} px is not made of whole tokens of {side} px")


def _check_moments(asked: Tokens, codec: "LatentCodec") -> None:
    if asked.latents == "moments" and not codec.has_moments:
        raise ValueError(
            f"tokens.latents=moments: {asked.codec} is an {type(codec.model).__name__}, which gives one latent and no "
            "standard deviation of it; set tokens.latents=mean, or another autoencoder, an AutoencoderKL"
        )


def _pictures(rows: pa.Table, flipped: np.ndarray, batch_size: int, size: int | None) -> Iterator[np.ndarray]:
    """Yield decoded pictures (n, height, width, 3), a batch at a time; squares of `size` px where one is given.

    Raises:
        ValueError: no size is given and pictures are of several.
    """
    encoded, ids = rows["image"].combine_chunks().field("bytes").to_pylist(), rows["id"].to_pylist()
    first: tuple[int, ...] | None = None
    for start in range(0, len(encoded), batch_size):
        pictures = [from_bytes(data) for data in encoded[start : start + batch_size]]
        if size is not None:
            pictures = [resize_square(picture, size) for picture in pictures]
        first = first or pictures[0].shape
        for picture, number in zip(pictures, ids[start:], strict=False):
            if picture.shape != first:
                raise ValueError(
                    f"picture {number} has {picture.shape[0]} x {picture.shape[1]} px, those before it {first[0]} x "
                    f"{first[1]} px; set tokens.sizes, to which pictures are cropped and resized"
                )
        yield np.stack(
            [picture[:, ::-1] if flip else picture for picture, flip in zip(pictures, flipped[start:], strict=False)]
        )
