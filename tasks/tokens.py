"""tokens: kept pictures and captions -> pre-tokenized Parquet: latents, text states, words."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightgen_core.pictures import from_bytes, resize_square
from storage.artifact import Artifact
from storage.tables import read_file, read_table, schema
from tasks.recipe import Tokens
from tasks.stage import Job, stage

if TYPE_CHECKING:
    from lightgen_core.text_encoder import TextEncoder

KINDS = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "latents": pa.binary(),
    "text": pa.binary(),
    "words": pa.int32(),
}


@stage(
    version=1,
    reads=("tokens",),
    weights=lambda recipe: (recipe.tokens.codec, recipe.tokens.text_encoder),
    on_device=True,
)
def tokens(job: Job, synthesis: Artifact, dedup: Artifact) -> None:
    """Write `tokens-*.parquet`, one for each shard of pictures; of several sizes, a set of such files for each.

    A caption is encoded once in a shard, whatever the number of sizes.
    """
    from lightgen_core.codec import LatentCodec
    from lightgen_core.half import to_bytes
    from lightgen_core.text_encoder import TextEncoder

    asked = job.recipe.tokens
    codec = LatentCodec.load(asked.codec, device=job.device())
    _check_sizes(asked.sizes, codec.stride * asked.patch)
    text_encoder = TextEncoder.load(asked.text_encoder, max_length=asked.max_words, device=job.device())
    verdict = read_table(dedup, "^keep", ["id", "kept"])
    keep = pa.array(verdict["id"].to_pylist()).filter(verdict["kept"].combine_chunks())
    sizes = asked.sizes or (None,)
    for size in sizes:
        for name, shard in job.mirrored(synthesis, "^images", _prefix(size)):
            rows = shard.filter(pc.is_in(shard["id"], keep))
            if size == sizes[0]:
                text, counts = _encode_text(rows["caption"].to_pylist(), text_encoder, asked)
            else:
                same = name.replace(_prefix(size), _prefix(sizes[0]))
                text, counts = read_file(job.artifact, same, ["text", "words"]), {}
            latents = [codec.encode(pictures) for pictures in _pictures(rows, asked.batch_size, size)]
            whole = np.concatenate(latents)
            about = {"dtype": asked.dtype, "text_width": text_encoder.width} | dict(
                zip(("channels", "height", "width"), whole.shape[1:], strict=True)
            )
            columns = {
                "id": rows["id"],
                "caption": rows["caption"],
                "topic": rows["topic"],
                "latents": [to_bytes(latent, asked.dtype) for latent in whole],
                "text": text["text"],
                "words": text["words"],
            }
            job.write_table(name, pa.table(columns, schema(KINDS, about)), counts)


def _encode_text(said: list[str], text_encoder: "TextEncoder", asked: Tokens) -> tuple[pa.Table, dict[str, int]]:
    """Return a table with the states and the number of words of each caption, and how many were encoded."""
    from lightgen_core.half import to_bytes

    captions, back = np.unique(said, return_inverse=True)
    states = text_encoder.encode(captions.tolist(), padded=asked.pad_text)
    text = [to_bytes(state, asked.dtype) for state in states]
    columns = {"text": [text[i] for i in back], "words": [len(states[i]) for i in back]}
    return pa.table(columns, pa.schema([("text", KINDS["text"]), ("words", KINDS["words"])])), {
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


def _pictures(rows: pa.Table, batch_size: int, size: int | None) -> Iterator[np.ndarray]:
    """Yield decoded pictures (n, height, width, 3), a batch at a time; squares of `size` px where one is given."""
    encoded = rows["image"].combine_chunks().field("bytes").to_pylist()
    for start in range(0, len(encoded), batch_size):
        pictures = [from_bytes(data) for data in encoded[start : start + batch_size]]
        yield np.stack(pictures if size is None else [resize_square(picture, size) for picture in pictures])
