"""The files of synthesis: equal bytes with any number of threads, and the formats of images."""

import numpy as np
import pytest
from pydantic import ValidationError

from lightgen_core.captioning.scene import scene_captions
from lightgen_core.images.codec import decode_image
from lightgen_core.scene.config import World
from tasks.config.sections import Synthesis
from tasks.config.settings import Settings
from tests.support.run_stage import recipe_of, run_recipe

TOPICS = scene_captions(World(), np.random.default_rng(0)).values()
CAPTIONS = [caption.text for topic in TOPICS for caption in topic[:3]]


def test_synthesis_writes_equal_bytes_with_any_number_of_threads(tmp_path):
    recipe = recipe_of(count=40, shard_size=25)
    one, three = (
        run_recipe(tmp_path / str(threads), CAPTIONS, recipe, Settings(device="cpu", threads=threads)).manifest.files
        for threads in (1, 3)
    )
    assert ([file.sha256 for file in one], len(one)) == ([file.sha256 for file in three], 4)


def test_a_teachers_images_come_in_the_format_of_the_recipe(tmp_path):
    """Lossless WebP holds the pixels of PNG; its files say what they are."""
    given = {
        name: run_recipe(tmp_path / name, CAPTIONS, recipe_of(count=8, image_format=name)).images["image"].to_pylist()
        for name in ("png", "webp", "jpeg")
    }
    assert {name: images[3]["path"] for name, images in given.items()} == {
        "png": "000000003.png",
        "webp": "000000003.webp",
        "jpeg": "000000003.jpg",
    }
    pairs = zip(given["png"], given["webp"], strict=True)
    assert all((decode_image(one["bytes"]) == decode_image(other["bytes"])).all() for one, other in pairs)


def test_a_png_has_no_quality():
    with pytest.raises(ValidationError, match="image_quality 90 goes with image_format webp or jpeg"):
        Synthesis(image_quality=90)
