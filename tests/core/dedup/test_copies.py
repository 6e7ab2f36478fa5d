"""Copies under any caption: what is found, what a caption explains, and that the search misses nothing."""

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from lightgen_core.dedup.config import CopyConfig, DedupConfig
from lightgen_core.dedup.copies import CopyMatcher
from lightgen_core.dedup.copy_features import copy_features, perceptual_hashes, stack_features
from lightgen_core.dedup.images import find_duplicates
from lightgen_core.dedup.planted import KINDS, find_planted_copies
from tests.factories.vectors import unit

WORDS = "apple boat cloud drum eagle forest guitar harbour island jacket kettle lemon mountain needle orchid piano"
WORDS = WORDS.split()


def photograph(number, side=96):
    """An image with the 1/f spectrum of photographs, of its own in every channel but alike in luminance."""
    rng = np.random.default_rng(number)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    channels = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency).real for _ in range(4)]
    image = np.stack([channels[0] + channel / 2 for channel in channels[1:]], axis=2)
    image = (image - image.mean()) / image.std()
    return np.clip(128 + 50 * image, 0, 255).astype(np.uint8)


def matcher(images, captions, **config):
    hashes, thumbnails = stack_features(copy_features(image) for image in images)
    return CopyMatcher(hashes, thumbnails, captions, CopyConfig(**config))


def pairs_of(images, captions, **config):
    later, earlier = matcher(images, captions, **config).pairs(np.arange(len(images)))
    return list(zip(later.tolist(), earlier.tolist(), strict=True))


@pytest.fixture(scope="module")
def photographs():
    return [photograph(number) for number in range(len(WORDS))]


def test_hashes_are_imagehashs_phash_bit_for_bit(photographs):
    """Of photographs, and of flat areas, whose high frequencies are rounding errors."""
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (0, 9, 255)]
    bars = [np.kron(np.eye(8, dtype=np.uint8)[::step], np.full((8, 8), 200, np.uint8)) for step in (1, -1, 2)]
    views = [Image.fromarray(image).convert("L").resize((64, 64)) for image in [*photographs, *flat, *bars]]
    expected = np.array([imagehash.phash(view).hash.ravel() for view in views])
    assert (perceptual_hashes(views) != expected).sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_copies_under_other_captions_are_found(photographs, kind):
    """15 of 16 of every kind, and nothing else is called a copy."""
    size = len(WORDS)
    changed = [np.asarray(KINDS[kind](Image.fromarray(image))) for image in photographs]
    captions = [f"a {word}" for word in WORDS] + [f"a {word}" for word in WORDS[1:] + WORDS[:1]]
    found = set(pairs_of(photographs + changed, captions))
    planted = {(size + row, row) for row in range(size)}
    assert (len(found & planted) >= size - 1, found - planted) == (True, set())


def test_a_caption_may_name_the_difference(photographs):
    """Recoloured images stay apart where the captions share their rare words, and only there."""
    red = photographs[0]
    green = np.asarray(KINDS["recoloured"](Image.fromarray(red)))
    images = [red, green, *photographs[1:]]
    others = [f"a {word}" for word in WORDS[1:]]
    assert pairs_of(images, ["a red apple", "a green apple", *others]) == []
    assert pairs_of(images, ["a red apple", "a wooden drum", *others]) == [(1, 0)]
    assert pairs_of(images, ["a red apple", "a red apple", *others]) == [(1, 0)]


def test_related_captions_keep_no_enlarged_copy(photographs):
    copy = np.asarray(Image.fromarray(photographs[0]).resize((192, 192)))
    images = [photographs[0], copy, *photographs[1:]]
    assert pairs_of(images, ["a red apple", "one apple, red", *(f"a {word}" for word in WORDS[1:])]) == [(1, 0)]


def test_mirrored_neighbours_whose_captions_say_so_stay(photographs):
    mirrored = np.asarray(ImageOps.mirror(Image.fromarray(photographs[0])))
    images, others = [photographs[0], mirrored, *photographs[1:]], [f"a {word}" for word in WORDS[1:]]
    assert pairs_of(images, ["left arrow", "right arrow", *others]) == []


def test_flat_images_are_no_copies_of_each_other():
    """Their hashes are equal; equal pixels are another rule."""
    flat = [np.full((32, 32, 3), level, np.uint8) for level in (0, 128, 255)]
    assert pairs_of(flat, ["night", "fog", "snow"]) == []


def test_equal_pixels_have_one_digest_whatever_the_file():
    image = photograph(1)
    same, turned = copy_features(image.copy(order="F")).pixels, copy_features(image.transpose(1, 0, 2)).pixels
    assert (same == copy_features(image).pixels, turned == copy_features(image).pixels) == (True, False)
    flat = np.zeros((2, 8, 3), np.uint8)
    assert copy_features(flat).pixels != copy_features(flat.reshape(4, 4, 3)).pixels


def test_a_near_vector_under_another_caption_needs_a_like_image(photographs):
    """CLIP that calls all images alike drops none of two captions; of one caption it drops the worse."""
    images, rng = photographs[:6], np.random.default_rng(0)
    vectors = unit(np.ones((6, 8)) + 0.01 * rng.normal(size=(6, 8))).astype(np.float32)
    captions = [f"a {word}" for word in WORDS[:5]] + ["a apple"]
    result = find_duplicates(vectors, None, -np.arange(6.0), range(6), DedupConfig(), copies=matcher(images, captions))
    assert (result.reason, result.duplicate_of[5]) == ([None] * 5 + ["near duplicate"], 0)


def test_a_copy_is_dropped_with_its_reason_in_any_order(photographs):
    """Vectors say nothing here; the better score stays."""
    mirrored = np.asarray(ImageOps.mirror(Image.fromarray(photographs[2])))
    images = [*photographs[:6], mirrored]
    captions, ids = [f"a {word}" for word in WORDS[:7]], list(range(7))
    vectors = np.eye(7, dtype=np.float32)
    score = np.array([1, 2, 3, 4, 5, 6, 7.0])
    for order in (np.arange(7), np.array([6, 2, 0, 5, 1, 4, 3])):
        result = find_duplicates(
            vectors[order],
            [copy_features(images[row]).pixels for row in order],
            score[order],
            [ids[row] for row in order],
            DedupConfig(),
            copies=matcher([images[row] for row in order], [captions[row] for row in order]),
        )
        gone = dict(zip(order.tolist(), zip(result.reason, result.duplicate_of, strict=True), strict=True))
        assert {row: verdict for row, verdict in gone.items() if verdict[0]} == {2: ("copy", 6)}


def test_groups_and_copies_exclude_each_other(photographs):
    with pytest.raises(ValueError, match="pass groups or copies"):
        find_duplicates(
            np.eye(2, dtype=np.float32), None, [1, 0], [0, 1], DedupConfig(),
            groups=["a", "b"], copies=matcher(photographs[:2], ["a", "b"]),
        )  # fmt: skip


def test_rates_of_planted_copies_are_counted(photographs):
    """An original that is there twice makes no copy of it wrong; images that nothing tells apart do."""
    captions = [f"a {word}" for word in WORDS]
    images, words, originals = [*photographs, photographs[0]], [*captions, "a window"], np.arange(4)
    hashes, thumbnails = stack_features(copy_features(image) for image in images)
    result = find_planted_copies(originals, photographs[:4], hashes, thumbnails, words, CopyConfig(), seed=0)
    assert (result.each, result.wrong, set(result.found)) == (4, 0, set(KINDS))
    assert min(result.found.values()) >= 3 and sum(result.found.values()) >= 38
    blind = CopyConfig(hash_bits=0, correlation=1)
    assert sum(find_planted_copies(originals, photographs[:4], hashes, thumbnails, words, blind, 0).found.values()) < 20
