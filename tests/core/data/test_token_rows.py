"""Batches of images for the autoencoder: sizes, mirrored rows, threads, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest

from lightgen_core.data.token_rows import encode_latents, image_batches
from lightgen_core.images.codec import encode_png, resize_square

IMAGES = [np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8) for number in range(7)]
MIRRORED = np.arange(7) >= 5


def rows(images) -> pa.Table:
    encoded = [{"bytes": encode_png(image), "path": None} for image in images]
    return pa.table({"id": range(100, 100 + len(images)), "image": encoded})


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_size_is_resized_from_the_image_itself(threads):
    """In batches, the last rows mirrored, whatever the number of threads."""
    batches = list(image_batches(rows(IMAGES), MIRRORED, 3, ((16, 16), (32, 32)), threads))
    assert [[images.shape for images in batch] for batch in batches] == [
        [(count, 16, 16, 3), (count, 32, 32, 3)] for count in (3, 3, 1)
    ]
    for number, size in enumerate((16, 32)):
        expected = [resize_square(image, size) for image in IMAGES]
        expected[5:] = [image[:, ::-1] for image in expected[5:]]
        assert (np.concatenate([batch[number] for batch in batches]) == expected).all()


def test_images_of_several_sizes_need_one_to_be_brought_to():
    small = rows([*IMAGES, IMAGES[0][:20]])
    flips = np.zeros(8, bool)
    with pytest.raises(ValueError, match=r"image 107 has 20 x 50 px, those before it 40 x 50 px; set tokens.sizes"):
        list(image_batches(small, flips, 4))
    assert [batch[0].shape for batch in image_batches(small, flips, 8, ((16, 16),))] == [(8, 16, 16, 3)]


def test_an_autoencoder_encodes_every_size():
    class Mean:
        def encode(self, images: np.ndarray) -> np.ndarray:
            return images.mean(axis=(2, 3))

    batches = list(image_batches(rows(IMAGES), MIRRORED, 3, ((16, 16), (32, 32))))
    small, large = encode_latents(Mean(), iter(batches), 3, moments=False)
    assert (small["latents"].shape, large["latents"].shape) == ((7, 16), (7, 32))
    assert encode_latents(Mean(), iter([]), 3, moments=False) == []
