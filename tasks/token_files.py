"""The files that `tokens` writes: names, columns, layout metadata and size on disk."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from lightgen_core.images.codec import decode_image
from storage.plural import pluralize
from tasks.config.sections import Tokens
from tasks.context.context import StageContext

if TYPE_CHECKING:
    from lightgen_core.encoders.autoencoder import LatentCodec

COLUMN_TYPES: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "caption_id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "sha256": pa.string(),
    "flipped": pa.bool_(),
    "latents": pa.binary(),
    "std": pa.binary(),
    "text": pa.binary(),
    "text_length": pa.int32(),
}


def file_prefix(size: int | None) -> str:
    """Return the start of the names of files with images of a size, px; None for a recipe without sizes."""
    return "tokens" if size is None else f"tokens-{size}px"


TEXT_FILES = r"^text-\d+\."
"""Pattern for the names of the files with the text states of captions."""


def token_files_regex(size: int | None) -> str:
    """Return a pattern for the names of files with images of a size, px; None for a recipe without sizes."""
    return rf"^{file_prefix(size)}-\d+\."


def latent_layout(config: Tokens, codec: "LatentCodec", image: bytes, size: int | None) -> dict[str, object]:
    """Return the schema metadata that readers need: dtype and the latents' (channels, height, width).

    image: an encoded one of the set, whose sides count where no size is given.
    """
    height, width = (size, size) if size else decode_image(image).shape[:2]
    sides = {"channels": codec.channels, "height": height // codec.stride, "width": width // codec.stride}
    return {"dtype": config.dtype, **sides, **({"moments": True} if config.latents == "moments" else {})}


def check_latents(columns: pa.Table, layout: Mapping[str, object], ids: pa.ChunkedArray) -> None:
    """Raise ValueError if a row's latents have another shape than those of the first image."""
    import pyarrow.compute as pc  # late: it takes as long as all the rest of pyarrow

    expected = 2 * math.prod(int(str(layout[side])) for side in ("channels", "height", "width"))
    sizes = pc.binary_length(columns["latents"]).to_numpy()
    if (other := sizes != expected).any():
        raise ValueError(
            f"image {ids[int(other.argmax())]} has another size than those before it; set tokens.sizes, to "
            "which images are cropped and resized"
        )


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


def log_disk_estimate(ctx: StageContext, image: bytes, rows: int, codec: "LatentCodec") -> None:
    """Log, before the first image is encoded, how much disk the latents of so many rows take at most."""
    layouts = [latent_layout(ctx.recipe.tokens, codec, image, size) for size in ctx.recipe.tokens.sizes or (None,)]
    values = sum(math.prod(int(str(layout[s])) for s in ("channels", "height", "width")) for layout in layouts)
    row_bytes = 2 * values * (2 if ctx.recipe.tokens.latents == "moments" else 1)
    size = rows * row_bytes / 1e9
    ctx.log("at most %s of %d bytes, all sizes together: %.2f GB", pluralize(rows, "row"), row_bytes, size)
