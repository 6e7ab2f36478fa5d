"""Pre-tokenized rows from images and captions: latents, their standard deviations, text states."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.images.codec import decode_image, resize_square
from lightgen_core.images.flip import is_flip_safe

if TYPE_CHECKING:
    from lightgen_core.encoders.autoencoder import LatentCodec
    from lightgen_core.encoders.text_encoder import TextEncoder


def add_mirrored_rows(rows: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Append the rows whose `caption` holds for the mirror image. Return the table, and which rows are mirrored."""
    mirrored = rows.filter(pa.array([is_flip_safe(caption) for caption in rows["caption"].to_pylist()], pa.bool_()))
    return pa.concat_tables([rows, mirrored]), np.arange(len(rows) + len(mirrored)) >= len(rows)


def image_batches(
    rows: pa.Table, mirrored: np.ndarray, batch_size: int, size: int | None = None
) -> Iterator[np.ndarray]:
    """Yield batches of decoded images uint8 (n, height, width, 3).

    Args:
        rows: with columns `id` and `image`, a struct with the encoded `bytes`.
        mirrored: (rows,) bool, True for images to be mirrored.
        size: side of the square that images are cropped and resized to, px; None keeps them.

    Raises:
        ValueError: no size is given and images are of several.
    """
    encoded, ids = rows["image"].combine_chunks().field("bytes").to_pylist(), rows["id"].to_pylist()
    expected: tuple[int, ...] | None = None
    for start in range(0, len(encoded), batch_size):
        images = [decode_image(data) for data in encoded[start : start + batch_size]]
        if size is not None:
            images = [resize_square(image, size) for image in images]
        expected = expected or images[0].shape
        for image, number in zip(images, ids[start:], strict=False):
            if image.shape != expected:
                raise ValueError(
                    f"image {number} has {image.shape[0]} x {image.shape[1]} px, those before it {expected[0]} x "
                    f"{expected[1]} px; set tokens.sizes, to which images are cropped and resized"
                )
        flips = mirrored[start : start + batch_size]
        yield np.stack([image[:, ::-1] if flip else image for image, flip in zip(images, flips, strict=True)])


def encode_latents(
    codec: "LatentCodec", batches: Iterable[np.ndarray], batch_size: int, *, moments: bool
) -> dict[str, np.ndarray]:
    """Return `latents`, and with `moments` also `std`, each (images, channels, height, width); {} for no images.

    Every batch is filled up to `batch_size` images, so that an image's latents do not depend on how many others come
    with it: kernels for other shapes round differently.
    """
    parts = []
    for images in batches:
        filled = np.concatenate([images, np.repeat(images[-1:], batch_size - len(images), axis=0)])
        values = codec.moments(filled) if moments else (codec.encode(filled),)
        parts.append([value[: len(images)] for value in values])
    columns = zip(("latents", "std"), zip(*parts, strict=True), strict=False)
    return {name: np.concatenate(values) for name, values in columns}


def encode_captions(
    text_encoder: "TextEncoder", captions: Sequence[str], *, pad: bool, dtype: str
) -> tuple[dict[str, list], dict[str, int]]:
    """Return columns `text` (states as bytes) and `text_length` (tokens), and counts of captions."""
    from lightgen_core.encoders.dtypes import to_bytes  # late: it loads torch, and stages import this module

    states = text_encoder.encode(list(captions), padded=pad)
    counts = {"captions_encoded": len(captions), "captions_truncated": text_encoder.count_truncated(list(captions))}
    return {"text": [to_bytes(state, dtype) for state in states], "text_length": [len(s) for s in states]}, counts


def values_to_bytes(columns: dict[str, np.ndarray], dtype: str) -> dict[str, pa.Array]:
    """Return columns of arrays (rows, ...) as binary columns, one value of `dtype` bytes for each row."""
    from lightgen_core.encoders.dtypes import to_bytes  # late: it loads torch, and stages import this module

    return {
        name: pa.array([to_bytes(value, dtype) for value in values], pa.binary()) for name, values in columns.items()
    }
