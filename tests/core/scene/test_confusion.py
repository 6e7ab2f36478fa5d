"""Confusions: what captions ask for against what the detector finds."""

import numpy as np

from lightgen_core.scene.config import World
from lightgen_core.scene.confusion import confusion_matrices, describe_objects
from lightgen_core.scene.grammar import parse
from lightgen_core.scene.render import render

WORLD = World()


def drawn(caption):
    """The teacher's image of a caption."""
    return render(parse(caption), WORLD, np.random.default_rng(0))


def confused(*pairs):
    """The counts by title, asked for and found, of pairs of a caption and another one that was drawn."""
    matrices = confusion_matrices([drawn(shown) for _, shown in pairs], [parse(asked) for asked, _ in pairs])
    return {
        matrix.title: {
            (asked, found): count
            for asked, row in zip(matrix.asked, matrix.counts, strict=True)
            for found, count in zip(matrix.found, row, strict=True)
            if count
        }
        for matrix in matrices
    }


def test_three_asked_and_four_drawn_is_counted_as_such():
    found = confused(("three stars", "four stars"), ("three stars", "three stars"), ("two circles", "a circle"))
    assert found == {"count": {("three", "four"): 1, ("three", "three"): 1, ("two", "one"): 1}}


def test_a_color_is_compared_at_the_object_of_its_shape():
    asked = "a red circle and a blue square"
    found = confused((asked, "a blue circle and a red square"), (asked, "a red circle and a blue star"))
    assert found == {"colour": {("red", "blue"): 1, ("blue", "red"): 1, ("red", "red"): 1, ("blue", "no object"): 1}}


def test_shapes_are_compared_where_one_object_is_asked_for():
    found = confused(("a star", "a cross"), ("a green star", "a star and a circle"))
    assert found["shape"] == {("star", "cross"): 1, ("star", "several"): 1}


def test_a_relation_is_compared_with_where_the_object_is():
    asked = "a star left of a cross"
    found = confused((asked, asked), (asked, "a star right of a cross"), (asked, "a star above a circle"))
    assert found == {
        "relation": {("left of", "left of"): 1, ("left of", "right of"): 1, ("left of", "no such pair"): 1}
    }


def test_columns_hold_every_row_so_that_a_diagonal_exists():
    matrix = confusion_matrices([drawn("four stars")], [parse("two stars")])[0]
    assert (matrix.asked, matrix.found, matrix.counts) == (("two",), ("two", "four"), ((0, 1),))


def test_objects_are_described_in_words():
    assert describe_objects(drawn("a red circle and a blue square")) in (
        "a red circle, a blue square",
        "a blue square, a red circle",
    )
    assert describe_objects(drawn("three stars")).startswith("3 ")
    assert describe_objects(np.full((48, 48, 3), 220, np.uint8)) == "no object"
