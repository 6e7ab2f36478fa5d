"""Captions and meanings: what is said, in how many ways, and that the parser reads all of them back."""

from collections import Counter
from itertools import product

import pytest

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import CaptionError, meanings, parse, phrasings
from lightgen_core.scene.meaning import Meaning, Object, excludes
from lightgen_core.scene.split import split
from lightgen_core.scene.vocabulary import CATEGORIES, COLORS, SHAPES

SMALL = World(colors=("red", "blue"), shapes=("circle", "square", "star"), max_count=3)
WHOLE = World(colors=tuple(COLORS), shapes=SHAPES)


def test_meanings_of_the_default_world_are_counted_by_hand():
    found = meanings(World())
    by_hand = {
        "single_object": 5,
        "two_object": 10,  # pairs of 5 shapes
        "counting": 5 * 3,
        "colors": 5 * 6,
        "position": 5 * 4 * 2,  # ordered pairs, left of and above
        "color_attr": 10 * 6 * 5,
    }
    assert Counter(m.category for m in found) == by_hand
    assert len({m.canonical for m in found}) == len(set(found)) == len(found) == 400


def test_parse_inverts_every_phrasing():
    for meaning in meanings(SMALL):
        for caption in phrasings(meaning):
            assert parse(caption) == meaning, caption


def test_parse_inverts_the_whole_vocabulary():
    for meaning in meanings(WHOLE):
        said = phrasings(meaning)
        for caption in (*said[:1], *said[7::97]):
            assert parse(caption) == meaning, caption


def test_every_meaning_has_forty_phrasings_the_canonical_first():
    for meaning in meanings(World()):
        said = phrasings(meaning)
        assert len(said) == len(set(said)) >= 40
        assert said[0] == meaning.canonical


def test_phrasings_vary_nouns_order_and_relation():
    said = {meaning.canonical: phrasings(meaning) for meaning in meanings(World())}
    assert {"two stars", "2 stars", "a pair of stars", "a photo of exactly two stars"} <= set(said["two stars"])
    pair = said["a red circle and a blue square"]
    assert {"a blue square and a red circle", "draw a circle in red next to a square in blue"} <= set(pair)
    placed = said["a circle left of a star"]
    assert {"a star to the right of a circle", "a star with a circle on its left"} <= set(placed)


def test_captions_are_read_in_any_case_and_with_any_final_mark():
    for caption in ("A Red Circle", "a red circle.", "  a  red circle ! ", "A photo of a RED circle?", "red circle"):
        assert parse(caption).canonical == "a red circle"
    assert parse("three stars, on a plain background").canonical == "three stars"


@pytest.mark.parametrize(
    ("caption", "same"),
    [
        ("a circle and a square", "a square and a circle"),
        ("a circle left of a square", "a square to the right of a circle"),
        ("a circle above a square", "a square underneath a circle"),
        ("a circle above a square", "a square with a circle above it"),
        ("a square with a circle to its left", "a circle on the left side of a square"),
        ("a red circle and a blue square", "a square that is blue next to a circle in red"),
        ("two stars", "a pair of stars"),
        ("3 crosses", "exactly three crosses"),
    ],
)
def test_captions_that_say_the_same_mean_the_same(caption: str, same: str):
    assert parse(caption) == parse(same)
    assert hash(parse(caption)) == hash(parse(same))


def test_order_matters_where_it_says_something():
    assert parse("a circle left of a square") != parse("a square left of a circle")
    assert parse("a red circle and a blue square") != parse("a blue circle and a red square")


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a photo of a purple elephant", "found 'a purple elephant' where an object was expected"),
        ("", "found '' where an object was expected"),
        ("five circles", "found 'five circles'"),
        ("7 circles", "found count 7, expected one of 2, 3, 4"),
        ("a circle and a circle", "expected two objects of different shapes"),
        ("a red circle and a square", "expected a colour with every object"),
        ("a red circle and a red square", "expected two different colours"),
        ("a red circle left of a square", "expected no colour with every object"),
    ],
)
def test_other_captions_are_refused_with_reason_and_example(caption: str, reason: str):
    with pytest.raises(CaptionError) as error:
        parse(caption)
    assert reason in str(error.value)
    assert "a red circle and a blue square" in str(error.value)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"category": "single", "objects": (Object("star"),)}, "found category 'single'"),
        ({"category": "counting", "objects": (Object("star"),)}, "found count 1, expected one of 2, 3, 4"),
        ({"category": "single_object", "objects": (Object("star"),), "count": 2}, "found count 2, expected 1"),
        ({"category": "position", "objects": (Object("star"), Object("ring"))}, "found relation None"),
        ({"category": "two_object", "objects": (Object("star"),)}, "expected two objects of different shapes"),
    ],
)
def test_a_meaning_that_no_caption_has_cannot_be_created(parts: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        Meaning(**parts)


def scenes():
    """Every image of up to three objects that `SMALL` can tell apart: [(shape, color, column, row), ...]."""
    things = list(product(SMALL.shapes, SMALL.colors))
    for shape, color in things:
        for count in (1, 2, 3):
            yield [(shape, color, place, 0) for place in range(count)]
    for a, b, column, row in product(things, things, (-1, 0, 1), (-1, 0, 1)):
        if (column, row) != (0, 0) and a[0] != b[0]:
            yield [(*a, 0, 0), (*b, column, row)]


def shows(scene: list, meaning: Meaning) -> bool:
    """Return true if a scene is right for a meaning: the definition, spelled out independently of the detector."""
    wanted = [o for o in meaning.objects for _ in range(meaning.count)]
    if sorted(o.shape for o in wanted) != sorted(shape for shape, *_ in scene):
        return False
    place = {}
    for shape, color, column, row in scene:
        place[shape] = (column, row)
        if next(o.color for o in wanted if o.shape == shape) not in (None, color):
            return False
    if meaning.relation is None:
        return True
    axis = 0 if meaning.relation == "left of" else 1
    first, second = (place[o.shape] for o in meaning.objects)
    return first[axis] < second[axis]


def test_meanings_exclude_each_other_iff_no_scene_shows_both():
    every, found = list(scenes()), meanings(SMALL)
    right = [{i for i, scene in enumerate(every) if shows(scene, meaning)} for meaning in found]
    assert all(right)
    for (a, scenes_a), (b, scenes_b) in product(zip(found, right, strict=True), repeat=2):
        assert excludes(a, b) == (not scenes_a & scenes_b), (a.canonical, b.canonical)


def test_the_split_holds_a_fifth_of_each_category_out():
    trained, held = split(World())
    sizes = {"single_object": 1, "two_object": 2, "counting": 3, "colors": 6, "position": 8, "color_attr": 60}
    assert Counter(m.category for m in held) == sizes
    assert sorted(m.canonical for m in trained + held) == sorted(m.canonical for m in meanings(World()))
    assert not set(trained) & set(held)


def test_no_phrasing_of_a_held_out_meaning_is_trained_on():
    trained, held = split(World())
    said = {caption for meaning in trained for caption in phrasings(meaning)}
    assert not said & {caption for meaning in held for caption in phrasings(meaning)}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_every_category_trains_and_holds_out_whatever_the_share(share: float):
    for world in (World(held_out=share), SMALL.model_copy(update={"held_out": share})):
        trained, held = split(world)
        assert {m.category for m in trained} == {m.category for m in held} == set(CATEGORIES)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_every_word_stays_in_the_training_of_its_category(share: float):
    world = World(held_out=share)
    for category in set(CATEGORIES) - {"single_object"}:  # there each meaning is a word of its own
        trained = [m for m in split(world)[0] if m.category == category]
        every = [m for m in meanings(world) if m.category == category]
        for words in (
            lambda m: {o.shape for o in m.objects},
            lambda m: {o.color for o in m.objects},
            lambda m: {m.count},
            lambda m: {m.relation},
        ):
            assert set().union(*map(words, trained)) == set().union(*map(words, every))


def test_the_split_is_the_same_on_every_machine():
    held = [m.canonical for m in split(World())[1]]
    assert held[:12] == [
        "a triangle",
        "a circle and a square",
        "a circle and a star",
        "three circles",
        "four circles",
        "two stars",
        "a yellow circle",
        "a green square",
        "a blue square",
        "an orange triangle",
        "a blue star",
        "a purple star",
    ]
