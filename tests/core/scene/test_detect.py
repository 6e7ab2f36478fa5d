"""The detector: it is right about every image of the teacher, unfiltered, and about images that show nothing."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import ndimage

from lightgen_core.scene.config import World
from lightgen_core.scene.detect import Detection, detect, relations, satisfies
from lightgen_core.scene.grammar import meanings, parse
from lightgen_core.scene.meaning import Meaning, excludes
from lightgen_core.scene.render import render
from lightgen_core.scene.shapes import coverage
from lightgen_core.scene.vocabulary import CATEGORIES, COLORS, SHAPES

WHOLE = {"colors": tuple(COLORS), "shapes": SHAPES}


def teach(world: World, count: int, seed: int = 0) -> list[tuple[Meaning, np.ndarray]]:
    """`count` meanings, the categories in turn, each with a teacher's image."""
    rng = np.random.default_rng(seed)
    every = defaultdict(list)
    for meaning in meanings(world):
        every[meaning.category].append(meaning)
    chosen = [every[CATEGORIES[i % 6]][rng.integers(len(every[CATEGORIES[i % 6]]))] for i in range(count)]
    return [(meaning, render(meaning, world, rng)) for meaning in chosen]


def scores(pictures: list[tuple[Meaning, np.ndarray]]) -> dict[str, float]:
    right, total = Counter(), Counter()
    for meaning, picture in pictures:
        right[meaning.category] += satisfies(picture, meaning)
        total[meaning.category] += 1
    return {category: right[category] / total[category] for category in total}


def noisy(picture: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(picture + rng.normal(0, 255 * std, picture.shape)), 0, 255).astype(np.uint8)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return np.rint(ndimage.gaussian_filter(picture.astype(float), (sigma, sigma, 0))).astype(np.uint8)


def canvas(*things: tuple[str, str, float, float, float], background=(230, 230, 230), side: int = 48) -> np.ndarray:
    """An image of (shape, color, x, y, radius) in pixels."""
    image = np.full((side, side, 3), background, float)
    for shape, color, x, y, radius in things:
        image += coverage(shape, x, y, radius, side, side)[..., None] * (np.array(COLORS[color]) - image)
    return np.rint(image).astype(np.uint8)


PERFECT = dict.fromkeys(CATEGORIES, 1.0)


def test_teacher_images_score_one_in_every_category():
    assert scores(teach(World(), 1002)) == PERFECT


@pytest.mark.parametrize("layout", ["composed", "grid", "free"])
def test_the_whole_vocabulary_scores_one_in_every_layout(layout: str):
    assert scores(teach(World(layout=layout, **WHOLE), 360)) == PERFECT


@pytest.mark.parametrize("layout", ["composed", "grid", "free"])
@pytest.mark.parametrize(
    ("size", "grid", "count"), [(32, 3, 300), (32, 4, 300), (40, 5, 300), (64, 4, 120), (128, 3, 60), (256, 5, 60)]
)
def test_every_size_and_grid_scores_one(layout: str, size: int, grid: int, count: int):
    assert scores(teach(World(layout=layout, image_size=size, grid=grid, **WHOLE), count)) == PERFECT


def test_small_scattered_objects_on_dark_backgrounds_score_one():
    world = World(layout="grid", image_size=64, radius=(0.25, 0.5), jitter=0.2, background=(0.5, 1.0), **WHOLE)
    assert scores(teach(world, 300)) == PERFECT


@pytest.mark.parametrize("world", [World(), World(layout="free", **WHOLE)], ids=["default", "free"])
def test_noise_of_a_twentieth_changes_no_score(world: World):
    rng = np.random.default_rng(1)
    assert scores([(meaning, noisy(picture, 0.05, rng)) for meaning, picture in teach(world, 300)]) == PERFECT


@pytest.mark.parametrize("sigma", [0.8, 1.5])
@pytest.mark.parametrize("world", [World(), World(**WHOLE)], ids=["default", "whole"])
def test_the_blur_of_an_autoencoder_changes_no_score(world: World, sigma: float):
    assert scores([(meaning, blurred(picture, sigma)) for meaning, picture in teach(world, 240)]) == PERFECT


@pytest.mark.parametrize("layout", ["composed", "grid", "free"])
def test_the_image_of_a_caption_that_excludes_this_one_fails(layout: str):
    pictures = teach(World(layout=layout), 300, seed=2)
    asked = excluding = right = 0
    for (meaning, _), (other, picture) in zip(pictures, pictures[5:] + pictures[:5], strict=True):
        asked += 1
        if excludes(meaning, other):
            excluding += 1
            right += satisfies(picture, meaning)
    assert excluding > 0.8 * asked
    assert right == 0


def test_near_misses_fail():
    """Same category, one word changed: the hardest captions to tell apart."""
    rng = np.random.default_rng(3)
    for caption, other in (
        ("a circle", "a ring"),
        ("a red circle", "an orange circle"),
        ("three stars", "four stars"),
        ("a star left of a cross", "a cross left of a star"),
        ("a star above a cross", "a star below a cross"),
        ("a red star and a blue cross", "a blue star and a red cross"),
        ("a circle and a star", "a circle and a cross"),
    ):
        for layout in ("composed", "grid", "free"):
            pictures = [render(parse(caption), World(layout=layout), rng) for _ in range(10)]
            assert [satisfies(picture, parse(caption)) for picture in pictures] == [True] * 10
            assert [satisfies(picture, parse(other)) for picture in pictures] == [False] * 10


def blank_and_noise(rng: np.random.Generator):
    for side in (32, 48, 128):
        for grey in (0, 128, 200, 255):
            yield np.full((side, side, 3), grey, np.uint8)
        for color in COLORS.values():
            yield np.broadcast_to(np.array(color, np.uint8), (side, side, 3))
        for std in (0.02, 0.05, 0.1, 0.2, 0.5):
            for grey in (0.5, 0.75, 1.0):
                yield noisy(np.full((side, side, 3), 255 * grey), std, rng)
        for _ in range(10):
            yield rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_blank_and_noise_images_show_nothing():
    images = list(blank_and_noise(np.random.default_rng(0)))
    assert len(images) == 117
    assert [len(detect(image)) for image in images] == [0] * len(images)
    assert not any(satisfies(image, meaning) for image in images for meaning in (parse("a star"), parse("two stars")))


def test_detections_give_position_size_color_and_shape():
    (found,) = detect(canvas(("star", "purple", 12.3, 30.6, 7)))
    assert (found.shape, found.color) == ("star", "purple")
    assert found.x == pytest.approx(12.3 / 48, abs=0.005)
    assert found.y == pytest.approx(30.95 / 48, abs=0.005)  # its centre of mass lies 0.05 radii lower
    assert found.radius == pytest.approx(7 / 48 * np.sqrt(2.5 * np.sin(np.pi / 5) / np.pi), rel=0.02)
    assert found.score > 0.95


def test_an_extra_object_is_wrong():
    one, extra = ("circle", "red", 12.0, 12.0, 6.5), ("star", "blue", 36.0, 36.0, 6.5)
    assert satisfies(canvas(one), parse("a circle"))
    assert not satisfies(canvas(one, extra), parse("a circle"))
    assert not satisfies(canvas(one, extra), parse("a red circle"))
    assert not satisfies(canvas(one, ("circle", "red", 36.0, 36.0, 6.5)), parse("a red circle"))


def test_clutter_as_large_as_an_object_is_wrong_a_speck_is_not():
    image = canvas(("circle", "red", 12.0, 12.0, 6.5))
    smear, speck = image.copy(), image.copy()
    smear[40:43, 4:44] = COLORS["blue"]
    speck[40:42, 40:42] = COLORS["blue"]
    assert not satisfies(smear, parse("a circle"))
    assert [found.shape for found in detect(smear)] == ["circle"]
    assert satisfies(speck, parse("a circle"))


def test_a_circle_with_a_faint_tail_is_clutter():
    image = canvas(("circle", "red", 12.0, 24.0, 7)).astype(float)
    image[22:26, 19:44] += 0.6 * (np.array(COLORS["red"]) - image[22:26, 19:44])
    assert not satisfies(image.astype(np.uint8), parse("a circle"))


def test_a_color_outside_the_vocabulary_is_clutter():
    teal = np.where(canvas(("circle", "black", 24.0, 24.0, 7)) < 128, np.array([0, 128, 128]), 230).astype(np.uint8)
    assert detect(teal) == []
    assert not satisfies(teal, parse("a circle"))


def test_a_background_of_a_known_color_conceals_only_that_color():
    image = canvas(("circle", "blue", 12.0, 12.0, 7), ("star", "red", 36.0, 36.0, 7), background=COLORS["red"])
    assert [(found.shape, found.color) for found in detect(image)] == [("circle", "blue")]


def test_half_red_and_half_blue_is_not_purple():
    image = canvas(("circle", "red", 24.0, 24.0, 7))
    image[:, 24:] = canvas(("circle", "blue", 24.0, 24.0, 7))[:, 24:]
    assert detect(image) == []


def test_crosses_that_blur_into_each_other_are_still_three():
    image = blurred(canvas(*(("cross", "red", x, 24.0, 7.2) for x in (8.0, 24.0, 40.0))), 1.5)
    assert [found.shape for found in detect(image)] == ["cross"] * 3


def test_the_caption_decides_which_colors_matter():
    image = canvas(("circle", "red", 9.0, 24.0, 6.5), ("square", "blue", 39.0, 24.0, 6.5))
    for caption in ("a circle and a square", "a circle left of a square", "a red circle and a blue square"):
        assert satisfies(image, parse(caption))
    assert not satisfies(image, parse("a red circle and a green square"))


def at(x: float, y: float, radius: float = 0.1) -> Detection:
    return Detection("circle", "red", x, y, radius, 1.0)


def test_relations_follow_genevals_margin():
    centre = at(0.5, 0.5)
    assert relations(at(0.2, 0.5), centre) == {"left of"}
    assert relations(at(0.8, 0.5), centre) == {"right of"}
    assert relations(at(0.5, 0.2), centre) == {"above"}
    assert relations(at(0.5, 0.8), centre) == {"below"}
    assert relations(at(0.2, 0.2), centre) == {"left of", "above"}
    assert relations(at(0.46, 0.5), centre) == set()  # within a tenth of the two widths
    assert relations(at(0.25, 0.56), centre) == {"left of"}  # a little lower is not below


def test_other_arrays_are_refused():
    for image in (np.zeros((48, 48, 3)), np.zeros((48, 48), np.uint8), np.zeros((48, 48, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            detect(image)
