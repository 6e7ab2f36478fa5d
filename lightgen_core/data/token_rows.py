"""Pre-tokenized rows from images and captions: latents, their standard deviations, features, text states."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lightgen_core.images.codec import crop_and_resize
from lightgen_core.images.flip import is_flip_safe
from lightgen_core.images.parallel import decode_batches, encoded_bytes

if TYPE_CHECKING:
    from lightgen_core.encoders.autoencoder import LatentCodec
    from lightgen_core.encoders.feature_maps import FeatureMaps
    from lightgen_core.encoders.text_encoder import TextEncoder


def add_mirrored_rows(rows: pa.Table, allowed: np.ndarray | None = None) -> tuple[pa.Table, np.ndarray]:
    """Append the rows whose `caption` holds for the mirror image. Return the table, and which rows are mirrored.

    allowed: (rows,) bool, rows whose other captions hold for it too; None: there are none.
    """
    safe = np.array([is_flip_safe(caption) for caption in rows["caption"].to_pylist()], bool)
    mirrored = rows.filter(pa.array(safe if allowed is None else safe & allowed))
    return pa.concat_tables([rows, mirrored]), np.arange(len(rows) + len(mirrored)) >= len(rows)


def image_batches(
    rows: pa.Table,
    mirrored: np.ndarray,
    batch_size: int,
    shapes: Sequence[tuple[int, int] | None] = (None,),
    threads: int = 1,
) -> Iterator[list[np.ndarray]]:
    """Yield batches of images decoded once for all shapes: for each shape uint8 (n, height, width, 3).

    While the caller works on a batch, `threads` decode the next.

    Args:
        rows: with columns `id` and `image`, a struct with the encoded `bytes`.
        mirrored: (rows,) bool, True for images to be mirrored.
        shapes: heights and widths that images are cropped and resized to, px; None keeps them.

    Raises:
        ValueError: an image cannot be decoded, or it keeps its size and is of another than those before it.
    """

    def resize(image: np.ndarray) -> list[np.ndarray]:
        return [image if shape is None else crop_and_resize(image, *shape) for shape in shapes]

    encoded, ids = encoded_bytes(rows["image"]), rows["id"].to_pylist()
    start, expected = 0, None
    for batch in decode_batches(encoded, ids, batch_size, threads, resize):
        expected = expected or [image.shape for image in batch[0]]
        for images, number in zip(batch, ids[start:], strict=False):
            _check_shapes(images, expected, number)
        flips = mirrored[start : start + batch_size]
        yield [
            np.stack([image[:, ::-1] if flip else image for image, flip in zip(images, flips, strict=True)])
            for images in zip(*batch, strict=True)
        ]
        start += len(batch)


def _check_shapes(images: Sequence[np.ndarray], expected: Sequence[tuple[int, ...]], number: int) -> None:
    for image, shape in zip(images, expected, strict=True):
        if image.shape != shape:
            raise ValueError(
                f"image {number} has {image.shape[0]} x {image.shape[1]} px, those before it {shape[0]} x "
                f"{shape[1]} px; set tokens.sizes, to which images are cropped and resized"
            )


def encode_latents(
    codec: "LatentCodec",
    batches: Iterable[Sequence[np.ndarray]],
    batch_size: int,
    *,
    moments: bool,
    features: "FeatureMaps | None" = None,
    patch: int = 1,
) -> list[dict[str, np.ndarray]]:
    """Return, for each shape, `latents` and with `moments` also `std`: (images, channels, height, width); [] for none.

    With an encoder of features also `features`, (images, height / patch, width / patch, channels): of the same pixels.
    Every batch is filled up to `batch_size` images, so that an image's latents do not depend on how many others come
    with it: kernels for other shapes round differently. batches: of `image_batches`.
    """
    names = ["latents", *(["std"] if moments else []), *([] if features is None else ["features"])]

    def encode(images: np.ndarray) -> list[np.ndarray]:
        filled = np.concatenate([images, np.repeat(images[-1:], batch_size - len(images), axis=0)])
        values = list(codec.moments(filled)) if moments else [codec.encode(filled)]
        if features is not None:
            values.append(features.encode(filled, (values[0].shape[2] // patch, values[0].shape[3] // patch)))
        return [value[: len(images)] for value in values]

    parts = [[encode(images) for images in batch] for batch in batches]
    return [
        {name: np.concatenate(values) for name, values in zip(names, zip(*shape, strict=True), strict=True)}
        for shape in zip(*parts, strict=True)
    ]


def encode_captions(
    text_encoder: "TextEncoder", captions: Sequence[str], *, pad: bool, dtype: str
) -> tuple[dict[str, list], dict[str, int]]:
    """Return columns `text` (states as bytes) and `text_length` (tokens), and counts of captions."""
    from lightgen_core.encoders.dtypes import to_bytes  # late: it loads torch, and stages import this module

    if not captions:
        return {"text": [], "text_length": []}, {"captions_encoded": 0, "captions_truncated": 0}
    states = text_encoder.encode(list(captions), padded=pad)
    counts = {"captions_encoded": len(captions), "captions_truncated": text_encoder.count_truncated(list(captions))}
    return {"text": [to_bytes(state, dtype) for state in states], "text_length": [len(s) for s in states]}, counts


def values_to_bytes(columns: dict[str, np.ndarray], dtype: str) -> dict[str, pa.Array]:
    """Return columns of arrays (rows, ...) as binary columns, one value of `dtype` bytes for each row."""
    from lightgen_core.encoders.dtypes import to_bytes  # late: it loads torch, and stages import this module

    return {
        name: pa.array([to_bytes(value, dtype) for value in values], pa.binary()) for name, values in columns.items()
    }
