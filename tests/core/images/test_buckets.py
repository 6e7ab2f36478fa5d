"""Aspect-ratio buckets: exact shapes, the bucket of an image, and what is refused."""

import numpy as np
import pytest

from lightgen_core.images.buckets import bucket_shape, bucket_shapes, check_ratios, nearest_bucket
from lightgen_core.images.codec import crop_and_resize, encode_png, image_shape, resize_square


@pytest.mark.parametrize(
    ("ratio", "size", "multiple", "shape"),
    [
        ("1:1", 512, 16, (512, 512)),
        ("4:3", 512, 16, (448, 592)),
        ("3:4", 512, 16, (592, 448)),
        ("16:9", 1024, 64, (768, 1344)),
        ("9:16", 1024, 64, (1344, 768)),
        ("4:1", 256, 32, (128, 512)),  # 2 and 1/2 times the side: nothing to round
        ("9:4", 48, 16, (32, 80)),  # 4.5 tokens by 2: a half goes up
        ("25:36", 48, 16, (64, 48)),  # 3.6 tokens by 2.5, of which binary fractions fall short
        ("50:1", 48, 16, (16, 336)),  # 0.42 tokens: one at least
        ("1:1", 40, 16, (48, 48)),
    ],
)
def test_a_bucket_has_the_nearest_sides_in_whole_tokens(ratio, size, multiple, shape):
    assert bucket_shape(ratio, size, multiple) == shape


def test_areas_stay_within_a_token_of_a_squares():
    """Rounding moves a side by half a token at most: of 1024 px in tokens of 16, an area by less than 4 %."""
    for width in range(1, 21):
        for height in range(1, 21):
            sides = bucket_shape(f"{width}:{height}", 1024, 16)
            if max(width / height, height / width) <= 4:
                assert abs(sides[0] * sides[1] / 1024**2 - 1) < 0.04, (width, height)


def test_an_image_goes_to_the_ratio_with_the_nearest_logarithm():
    ratios = ("1:1", "4:3", "3:4", "5:1")
    found = {
        shape: ratios[nearest_bucket(ratios, *shape)] for shape in ((9, 10), (30, 40), (40, 30), (10, 100), (90, 10))
    }
    assert found == {(9, 10): "1:1", (30, 40): "4:3", (40, 30): "3:4", (10, 100): "5:1", (90, 10): "3:4"}
    # Between 4:3 and 5:1 the middle is the root of 20/3, 2.58; by difference it would be 3.17.
    assert ratios[nearest_bucket(ratios, 100, 258)] == "4:3" and ratios[nearest_bucket(ratios, 100, 259)] == "5:1"


@pytest.mark.parametrize("ratios", [("4:3", "3:4"), ("3:4", "4:3"), ("16:9", "9:16"), ("9:16", "16:9"), ("7:5", "5:7")])
def test_of_equally_near_ratios_the_first_one_wins(ratios):
    """Logarithms in floating point differ in the last bit."""
    assert nearest_bucket(ratios, 33, 33) == 0


def test_two_ratios_of_one_shape_are_named():
    with pytest.raises(ValueError, match="at 48 px 1:1 and 5:4 are both 48 x 48 px, in whole tokens of 16 px"):
        bucket_shapes(("1:1", "2:1", "5:4"), 48, 16)
    assert bucket_shapes(("1:1", "2:1", "5:4"), 512, 16) == ((512, 512), (368, 720), (464, 576))


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (("4/3",), "found '4/3'; expected an aspect ratio width:height"),
        (("0:3",), "found '0:3'"),
        (("1.5:1",), "found '1.5:1'"),
        (("4:3", "8:6"), "4:3 and 8:6 are one aspect ratio"),
        (("4:3", "4:3"), "4:3 and 4:3 are one aspect ratio"),
    ],
)
def test_texts_that_are_no_ratios_are_refused(ratios, message):
    with pytest.raises(ValueError, match=message):
        check_ratios(ratios)


def test_a_crop_is_the_middle_of_the_buckets_ratio():
    wide = np.zeros((60, 200, 3), np.uint8)
    wide[:, 40:160] = 255  # 2:1 of 60 px
    assert crop_and_resize(wide, 30, 60).min() == 255 and crop_and_resize(wide, 30, 60).shape == (30, 60, 3)
    assert crop_and_resize(wide, 20, 60)[:, [0, -1]].max() < 128  # 3:1 shows the dark sides
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    assert (crop_and_resize(tall, 60, 30) == crop_and_resize(wide, 30, 60).transpose(1, 0, 2)).all()
    assert crop_and_resize(wide, 60, 200) is wide and image_shape(encode_png(wide)) == (60, 200)


def test_a_crop_to_one_by_one_is_the_middle_square():
    image = np.random.default_rng(0).integers(0, 256, (31, 50, 3), dtype=np.uint8)
    assert (crop_and_resize(image, 16, 16) == resize_square(image[:, 9:40], 16)).all()
