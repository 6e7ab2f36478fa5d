"""Features that copies of an image share: recompressed, resized, mirrored, bordered, slightly cropped or rotated."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageChops, ImageOps
from scipy.fft import dctn

VIEWS = 6
"""Hashes of an image: whole, mirrored, without 5 % and 10 % at each side, rotated by 3 degrees both ways."""
HASH_BYTES = 8
THUMBNAIL = 16
"""Side of the thumbnail, px."""

_VIEW = 64  # px
_HASHED = 32  # px, to which the hash brings a view
_LOW = 8  # of its frequencies, in each direction, that give a bit
_BORDER = 24  # a border's grey levels differ by no more, JPEG noise included
_FRAMES = 3  # a frame around a margin around ...


class CopyFeatures(NamedTuple):
    """The decoded pixels' sha256, VIEWS perceptual hashes of HASH_BYTES, and a thumbnail of THUMBNAIL^2 RGB bytes."""

    pixels: str
    hashes: bytes
    thumbnail: bytes


def copy_features(image: UInt8[np.ndarray, "height width 3"]) -> CopyFeatures:
    """Compute the features of an image; hashes and thumbnail leave out borders of one colour."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    trimmed = trim_border(Image.fromarray(image))
    hashes = np.packbits(perceptual_hashes(_views(trimmed)), axis=1).tobytes()
    thumbnail = trimmed.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return CopyFeatures(digest.hexdigest(), hashes, thumbnail.tobytes())


def perceptual_hashes(views: Sequence[Image.Image]) -> Bool[np.ndarray, "views bits"]:
    """Return `imagehash.phash` of grey images, bit for bit; one call transforms all of them."""
    resized = [np.asarray(view.resize((_HASHED, _HASHED), Image.Resampling.LANCZOS)) for view in views]
    low = dctn(np.stack(resized), axes=(1, 2))[:, :_LOW, :_LOW].reshape(len(views), -1)
    return low > np.median(low, axis=1, keepdims=True)


def stack_features(
    features: Iterable[CopyFeatures],
) -> tuple[UInt8[np.ndarray, "n views bytes"], UInt8[np.ndarray, "n side side 3"]]:
    """Return the hashes and the thumbnails of images as arrays."""
    rows = list(features)
    hashes = np.frombuffer(b"".join(row.hashes for row in rows), np.uint8)
    thumbnails = np.frombuffer(b"".join(row.thumbnail for row in rows), np.uint8)
    return hashes.reshape(-1, VIEWS, HASH_BYTES), thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL, 3)


def trim_border(image: Image.Image) -> Image.Image:
    """Cut off borders of one colour, as long as a quarter of each side stays."""
    for _ in range(_FRAMES):
        border = Image.new("RGB", image.size, image.getpixel((0, 0)))
        box = ImageChops.difference(image, border).convert("L").point(lambda level: 255 * (level > _BORDER)).getbbox()
        if box in (None, (0, 0, *image.size)):
            break
        if 4 * (box[2] - box[0]) < image.width or 4 * (box[3] - box[1]) < image.height:
            break
        image = image.crop(box)
    return image


def _views(image: Image.Image) -> list[Image.Image]:
    whole = image.convert("L").resize((_VIEW, _VIEW), Image.Resampling.BOX)
    crops = [
        whole.resize((_VIEW, _VIEW), box=(cut, cut, _VIEW - cut, _VIEW - cut)) for cut in (0.05 * _VIEW, 0.1 * _VIEW)
    ]
    corner = whole.getpixel((0, 0))
    turned = [whole.rotate(angle, Image.Resampling.BICUBIC, fillcolor=corner) for angle in (-3, 3)]
    return [whole, ImageOps.mirror(whole), *crops, *turned]
