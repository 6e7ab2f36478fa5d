"""The teacher of the scene world: where things go in each layout, and that a seed gives the same pixels."""

from hashlib import sha256

import numpy as np
import pytest
from pydantic import ValidationError

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import meanings, parse
from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.render import PlacedObject, arrange, render
from lightgen_core.scene.shapes import coverage
from lightgen_core.scene.vocabulary import CLEARANCE, COLORS, MIN_RADIUS, SHAPES

LAYOUTS = ("composed", "grid", "free")
GOLDEN = ("2c370da81231bbd5", "e5bc36c968edef29", "089e436f48283bdb")
"""Digests of images of the whole vocabulary; they change only when the teacher is meant to draw differently."""


def cells(things: list[PlacedObject], world: World) -> list[tuple[int, int]]:
    side = world.image_size / world.grid
    return [(int(thing.x // side), int(thing.y // side)) for thing in things]


def arranged(caption: str, world: World, times: int = 50) -> set[frozenset]:
    """All sets of cells that `caption` fills in `times` images."""
    rng = np.random.default_rng(0)
    return {frozenset(cells(arrange(parse(caption), world, rng), world)) for _ in range(times)}


def test_composed_images_are_composed():
    world = World()
    assert arranged("a circle", world) == {frozenset({(1, 1)})}
    side_by_side, upright = frozenset({(0, 1), (2, 1)}), frozenset({(1, 0), (1, 2)})
    assert arranged("a circle and a star", world) == arranged("two stars", world) == {side_by_side, upright}
    row, column = frozenset({(0, 1), (1, 1), (2, 1)}), frozenset({(1, 0), (1, 1), (1, 2)})
    assert arranged("three stars", world) == {row, column}
    assert arranged("four stars", world) == {frozenset({(0, 0), (0, 2), (2, 0), (2, 2)})}


def test_composed_relations_are_drawn_as_in_the_caption():
    rng = np.random.default_rng(0)
    world = World()
    for _ in range(20):
        assert cells(arrange(parse("a circle left of a star"), world, rng), world) == [(0, 1), (2, 1)]
        assert cells(arrange(parse("a circle below a star"), world, rng), world) == [(1, 0), (1, 2)]


def test_two_objects_come_in_either_order():
    rng = np.random.default_rng(0)
    first = {tuple(cells(arrange(parse("a circle and a star"), World(), rng), World())[:1]) for _ in range(50)}
    assert first == {((0, 1),), ((2, 1),), ((1, 0),), ((1, 2),)}


def test_the_grid_layout_uses_every_cell():
    world = World(layout="grid", grid=4, image_size=64)
    assert len(set().union(*arranged("a circle and a star", world, 200))) == 16


@pytest.mark.parametrize("layout", ["composed", "grid"])
@pytest.mark.parametrize(("size", "grid"), [(32, 3), (32, 4), (48, 3), (256, 5)])
def test_objects_keep_inside_their_cells(layout: str, size: int, grid: int):
    world, rng = World(layout=layout, image_size=size, grid=grid, jitter=0.2), np.random.default_rng(0)
    cell = size / grid
    for meaning in meanings(world)[::3]:
        things = arrange(meaning, world, rng)
        assert len(set(cells(things, world))) == len(things)
        for thing in things:
            for place in (thing.x, thing.y):
                assert thing.radius + CLEARANCE <= place % cell + 1e-9 <= cell - thing.radius - CLEARANCE + 2e-9
            assert MIN_RADIUS <= thing.radius <= world.radius[1] * cell


def test_free_objects_keep_apart():
    world, rng = World(layout="free"), np.random.default_rng(0)
    for _ in range(200):
        things = arrange(parse("four circles"), world, rng)
        for i, a in enumerate(things):
            for b in things[:i]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + 2 * CLEARANCE


def test_named_colors_are_kept_and_free_ones_vary():
    rng = np.random.default_rng(0)
    named = [arrange(parse("a red circle and a blue star"), World(), rng) for _ in range(50)]
    assert {(thing.shape, thing.color) for things in named for thing in things} == {("circle", "red"), ("star", "blue")}
    free = [arrange(parse("three stars"), World(), rng) for _ in range(200)]
    assert {len({thing.color for thing in things}) for things in free} == {1}  # three of a kind
    assert {things[0].color for things in free} == set(World().colors)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_area_of_the_shape(shape: str):
    exact = {
        "circle": np.pi,
        "square": 4 * 0.86**2,
        "triangle": 1.8,
        "star": 10 * 0.5 * 0.5 * np.sin(np.pi / 5),  # ten triangles: centre, tip at 1, notch at 0.5
        "cross": 4 - 4 * 0.67**2,
        "diamond": 1.6,
        "ring": np.pi * 0.75,
    }[shape]
    small, large = (coverage(shape, side / 2 + 0.3, side / 2, r, side, side).sum() for side, r in ((16, 6), (128, 60)))
    assert small == pytest.approx(exact * 6**2, rel=0.02)
    assert large == pytest.approx(exact * 60**2, rel=0.004)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_seed_gives_the_same_image(layout: str):
    world, meaning = World(layout=layout), parse("four stars")
    first, again, other = (render(meaning, world, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("layout", "digest"), zip(LAYOUTS, GOLDEN, strict=True))
def test_images_are_the_same_on_every_machine(layout: str, digest: str):
    world, rng = World(layout=layout, colors=tuple(COLORS), shapes=SHAPES), np.random.default_rng(0)
    images = [render(meaning, world, rng) for meaning in meanings(world)[::19]]
    assert sha256(np.stack(images).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"image_size": 32, "grid": 5}, "radius of 2.45 px .* told apart from 3.2 px"),
        ({"colors": ("red", "crimson")}, "colors: found crimson; expected some of red, green"),
        ({"colors": ("red",)}, "colors: found red; expected at least 2 words, each once"),
        ({"shapes": ("star", "ring", "star")}, "shapes: found star, ring, star; expected at least 3 words, each once"),
        ({"radius": (0.4, 0.6)}, "radius: found 0.4, 0.6"),
        ({"background": (0.2, 1.0)}, "background: found 0.2, 1.0"),
    ],
)
def test_ambiguous_worlds_are_refused(setting: dict, reason: str):
    with pytest.raises(ValidationError, match=reason):
        World(**setting)


def test_every_allowed_size_and_grid_can_be_drawn():
    drawn = 0
    for size in (32, 40, 48, 64, 128, 256):
        for grid in (3, 4, 5):
            if size / grid >= 8:
                world = World(image_size=size, grid=grid, layout="grid")
                image = render(Meaning("counting", parse("a star").objects, 4), world, np.random.default_rng(0))
                drawn += image.shape == (size, size, 3)
    assert drawn == 17
