"""Decode and encode many images in threads, ahead of the device, in order and with bounded memory.

Pillow holds no lock of Python's while it decodes, resizes and encodes (a JPEG's encoding excepted). Neither the order
nor the bytes depend on the number of threads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import UInt8

from lightgen_core.images.codec import DECODER_ERRORS, decode_image, encode_png
from lightgen_core.images.ordered_map import ordered_map
from lightgen_core.rejected import Rejected

if TYPE_CHECKING:
    import pyarrow as pa

Image = UInt8[np.ndarray, "_ _ 3"]
Result = TypeVar("Result")

AHEAD = 64
"""Images that wait for an encoder at most: 50 MB of 512 px."""


def encoded_bytes(images: "pa.ChunkedArray") -> list[bytes]:
    """Return the encoded images of a column of structs with `bytes`, chunk by chunk.

    Joined to one array they could pass the 2 GiB that its 32-bit offsets reach: 2,000 PNGs of 1024 px do.
    """
    return [image for chunk in images.chunks for image in chunk.field("bytes").to_pylist()]


def decode_batches(
    encoded: Sequence[bytes], ids: Sequence[int], batch_size: int, threads: int, process: Callable[[Image], Result]
) -> Iterator[list[Result]]:
    """Yield batches of decoded and processed images; while the caller works on one, the next is made.

    Args:
        encoded: images that this package wrote; for others see `SafeImageDecoder`.
        ids: of the images, for errors.
        process: called with each image in the thread that decoded it, for example to resize it.

    Raises:
        ValueError: an image cannot be decoded; the message has its id.
    """

    def decode(image: tuple[int, bytes]) -> Result:
        try:
            decoded = decode_image(image[1])
        except DECODER_ERRORS as error:
            raise ValueError(f"image {image[0]} cannot be decoded: {error}") from error
        return process(decoded)

    images = ordered_map(decode, zip(ids, encoded, strict=True), threads, ahead=batch_size)
    while batch := list(islice(images, batch_size)):
        yield batch


def decode_images(encoded: Sequence[bytes], ids: Sequence[int], threads: int) -> list[Image]:
    """Return all images, decoded. Raises ValueError as `decode_batches`."""
    return [
        image for batch in decode_batches(encoded, ids, 2 * threads, threads, lambda image: image) for image in batch
    ]


def encode_images(
    images: Iterable[Image | Rejected], threads: int, encode: Callable[[Image], bytes] = encode_png
) -> Iterator[bytes | Rejected]:
    """Yield images encoded, and errors as they are; while the caller waits for more images, these are encoded."""

    def encode_one(image: Image | Rejected) -> bytes | Rejected:
        return image if isinstance(image, Rejected) else encode(image)

    return ordered_map(encode_one, images, threads, ahead=AHEAD)
