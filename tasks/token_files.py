"""The files that `tokens` writes: names, columns, layout metadata and size on disk."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.images.buckets import bucket_shapes, nearest_bucket
from lightgen_core.images.codec import image_shape
from storage.plural import pluralize
from tasks.config.sections import Tokens
from tasks.context.context import StageContext

if TYPE_CHECKING:
    from lightgen_core.encoders.autoencoder import LatentCodec
    from lightgen_core.encoders.feature_maps import FeatureMaps

COLUMN_TYPES: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "caption_id": pa.int64(),
    "short_id": pa.int64(),
    "long_id": pa.int64(),
    "caption": pa.string(),
    "topic": pa.string(),
    "teacher": pa.string(),
    "caption_source": pa.string(),
    "sha256": pa.string(),
    "flipped": pa.bool_(),
    "latents": pa.binary(),
    "std": pa.binary(),
    "features": pa.binary(),
    "text": pa.binary(),
    "text_length": pa.int32(),
}


@dataclass(frozen=True)
class Bucket:
    """Images that are encoded in one shape at each size: of an aspect ratio, or all of them (ratio None).

    shapes: height and width, px, at each of `tokens.sizes`; without sizes a single None, for images as they are.
    """

    ratio: str | None
    shapes: tuple[tuple[int, int] | None, ...]

    def __str__(self) -> str:
        return " and ".join(f"{shape[1]} x {shape[0]} px" for shape in self.shapes if shape)

    def file_prefixes(self, config: Tokens) -> list[str]:
        """Return the start of the names of its files at each size."""
        sizes, shapes = config.sizes or (None,), self.shapes if self.ratio else [None] * len(self.shapes)
        return [file_prefix(size, shape) for size, shape in zip(sizes, shapes, strict=True)]


def buckets_of(config: Tokens, stride: int) -> list[Bucket]:
    """Return the buckets of a recipe, one for all images unless it names ratios; stride: of the codec, px a latent.

    Raises:
        ValueError: two ratios have one shape.
    """
    if not config.buckets:
        return [Bucket(None, tuple((size, size) for size in config.sizes) or (None,))]
    by_size = [bucket_shapes(config.buckets, size, stride * config.patch) for size in config.sizes]
    return [Bucket(ratio, tuple(shapes)) for ratio, *shapes in zip(config.buckets, *by_size, strict=True)]


def bucket_numbers(config: Tokens, images: Sequence[bytes]) -> np.ndarray:
    """Return the position of each encoded image's bucket, (images,) int64; only headers are read."""
    if not config.buckets:
        return np.zeros(len(images), np.int64)
    return np.array([nearest_bucket(config.buckets, *image_shape(image)) for image in images], np.int64)


def file_prefix(size: int | None, shape: tuple[int, int] | None = None) -> str:
    """Return the start of the names of files with images of a size, px; None for a recipe without sizes.

    shape: height and width of a bucket, px, for files of that bucket: `tokens-512px-592x448`, width first as in ratios.
    """
    of_size = "tokens" if size is None else f"tokens-{size}px"
    return of_size if shape is None else f"{of_size}-{shape[1]}x{shape[0]}"


TEXT_FILES = r"^text-\d+\."
"""Pattern for the names of the files with the text states of captions."""


RECAPTION_TEXT_FILES = r"^recaption-text-\d+\."
"""Pattern for the names of the files with the text states of recaptions."""


def token_files_regex(size: int | None, shape: tuple[int, int] | None = None) -> str:
    """Return a pattern for the names of files with images of a size, px; None for a recipe without sizes.

    shape: height and width of a bucket, px; None: files of every bucket.
    """
    return rf"^{file_prefix(size, shape)}-{'' if shape else '([0-9]+x[0-9]+-)?'}\d+\."


def encoders_of(config: Tokens) -> tuple[str, ...]:
    """Return the names of the frozen models that encode images and captions."""
    return (config.codec, config.text_encoder, *([config.features.model] if config.features else []))


def value_columns(config: Tokens) -> list[str]:
    """Return the columns that are encoded from images."""
    moments, features = config.latents == "moments", config.features is not None
    return ["latents", *(["std"] if moments else []), *(["features"] if features else [])]


def load_feature_maps(ctx: StageContext) -> "FeatureMaps | None":
    """Load the encoder of `tokens.features`, if there is one."""
    if (config := ctx.recipe.tokens.features) is None:
        return None
    from lightgen_core.encoders.feature_maps import FeatureMaps

    return FeatureMaps.load(config.model, device=ctx.device(), precision=config.precision, size=config.size)


def latent_layout(
    config: Tokens, codec: "LatentCodec", shape: tuple[int, int], feature_channels: int = 0
) -> dict[str, object]:
    """Return the schema metadata that readers need: dtype and the latents' (channels, height, width).

    shape: height and width of the images, px; feature_channels: of a token's features, 0 without any.
    """
    height, width = (side // codec.stride for side in shape)
    sides = {"channels": codec.channels, "height": height, "width": width}
    layout: dict[str, object] = {"dtype": config.dtype, **sides}
    if config.latents == "moments":
        layout["moments"] = True
    if feature_channels:
        grid = {"feature_height": height // config.patch, "feature_width": width // config.patch}
        layout |= {**grid, "feature_channels": feature_channels}
    return layout


def without_image_values(layout: dict[str, object]) -> dict[str, object]:
    """Return a layout without what only images' rows have: deviations and features."""
    return {name: value for name, value in layout.items() if name != "moments" and not name.startswith("feature_")}


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
    """Raise ValueError if an autoencoder does not fit the sizes, the buckets or the kind of latents."""
    side = codec.stride * config.patch
    if uneven := [size for size in config.sizes if size % side]:
        raise ValueError(f"tokens.sizes: an image of {uneven[0]} px is not made of whole tokens of {side} px")
    buckets_of(config, codec.stride)
    if config.latents == "moments" and not codec.has_moments:
        raise ValueError(
            f"tokens.latents=moments: {config.codec} is an {type(codec.model).__name__}, which gives one latent and no "
            "standard deviation of it; set tokens.latents=mean, or another autoencoder, an AutoencoderKL"
        )


def log_disk_estimate(
    ctx: StageContext, image: bytes, rows: int, codec: "LatentCodec", feature_channels: int = 0
) -> None:
    """Log, before the first image is encoded, how much disk latents and features of so many rows take at most.

    image: an encoded one of the set, whose sides count where no size is given; feature_channels: of a token's features.
    """
    config, own = ctx.recipe.tokens, image_shape(image)
    sides = [[shape or own for shape in bucket.shapes] for bucket in buckets_of(config, codec.stride)]
    pixels = max(sum(height * width for height, width in shapes) for shapes in sides)
    row_bytes = 2 * codec.channels * pixels // codec.stride**2 * (2 if config.latents == "moments" else 1)
    row_bytes += 2 * feature_channels * (pixels // (codec.stride * config.patch) ** 2)
    size = rows * row_bytes / 1e9
    ctx.log("at most %s of %d bytes, all sizes together: %.2f GB", pluralize(rows, "row"), row_bytes, size)
