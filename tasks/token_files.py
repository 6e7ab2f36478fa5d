"""The files that `tokens` writes: names, columns, layout metadata and size on disk."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.images.codec import decode_image
from storage.plural import pluralize
from tasks.config.sections import Tokens
from tasks.context.context import StageContext

if TYPE_CHECKING:
    from lightgen_core.encoders.autoencoder import LatentCodec

COLUMN_TYPES: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "flipped": pa.bool_(),
    "latents": pa.binary(),
    "std": pa.binary(),
    "text": pa.binary(),
    "text_length": pa.int32(),
}


def file_prefix(size: int | None) -> str:
    """Return the start of the names of files with images of a size, px; None for a recipe without sizes."""
    return "tokens" if size is None else f"tokens-{size}px"


def token_files_regex(size: int | None) -> str:
    """Return a pattern for the names of files with images of a size, px; None for a recipe without sizes."""
    return rf"^{file_prefix(size)}-\d+\."


def layout_metadata(latents: Mapping[str, np.ndarray], dtype: str, text_width: int) -> dict[str, object]:
    """Return the schema metadata that readers need: dtype, text width, and the latents' (channels, height, width)."""
    shape = dict(zip(("channels", "height", "width"), latents["latents"].shape[1:], strict=True))
    return {"dtype": dtype, "text_width": text_width, **shape, **({"moments": True} if "std" in latents else {})}


def check_codec(config: Tokens, codec: "LatentCodec") -> None:
    """Raise ValueError if an autoencoder does not fit the sizes or the kind of latents."""
    side = codec.stride * config.patch
    if uneven := [size for size in config.sizes if size % side]:
        raise ValueError(f"tokens.sizes: an image of {uneven[0]} px is not made of whole tokens of {side} px")
    if config.latents == "moments" and not codec.has_moments:
        raise ValueError(
            f"tokens.latents=moments: {config.codec} is an {type(codec.model).__name__}, which gives one latent and no "
            "standard deviation of it; set tokens.latents=mean, or another autoencoder, an AutoencoderKL"
        )


def log_disk_estimate(ctx: StageContext, shard: pa.Table, codec: "LatentCodec", text_width: int, kept: int) -> None:
    """Log, before the first image is encoded, how much disk the rows take at most."""
    config = ctx.recipe.tokens
    sides = [(size, size) for size in config.sizes] or [decode_image(shard["image"][0]["bytes"].as_py()).shape[:2]]
    rows, text = kept * (2 if config.flip else 1), 2 * config.max_text_tokens * text_width
    channels = codec.channels * (2 if config.latents == "moments" else 1)
    row_bytes = sum(2 * channels * (h // codec.stride) * (w // codec.stride) + text for h, w in sides)
    size = rows * row_bytes / 1e9
    ctx.log("at most %s of %d bytes, all sizes together: %.2f GB", pluralize(rows, "row"), row_bytes, size)
