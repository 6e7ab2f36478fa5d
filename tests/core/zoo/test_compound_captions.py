"""Captions of several groups of objects: they say what they mean, and nothing that is held out."""

from collections import Counter

import numpy as np
import pytest

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import CaptionError, parse
from lightgen_core.scene.meaning import NUMBER_WORDS, Object
from lightgen_core.scene.split import split
from lightgen_core.scene.vocabulary import COLORS, SHAPES, plural
from lightgen_core.zoo.compound_captions import Group, compound_caption, meanings_within
from lightgen_core.zoo.tokenizer import make_tokenizer, unknown_words
from lightgen_core.zoo.train_t5 import COMPOUND_TOKENS, sample_compounds
from lightgen_core.zoo.training import seen_meanings


@pytest.fixture(scope="module")
def captions() -> list[tuple[str, list[Group]]]:
    seen, rng = frozenset(seen_meanings()), np.random.default_rng(7)
    return [compound_caption(seen, rng) for _ in range(400)]


def test_no_caption_is_one_of_the_scene_world(captions: list[tuple[str, list[Group]]]) -> None:
    for caption, _ in captions:
        with pytest.raises(CaptionError):
            parse(caption)


def test_no_part_of_a_caption_says_a_held_out_meaning(captions: list[tuple[str, list[Group]]]) -> None:
    for colors, shapes in ((6, 5), (10, 7), (4, 3)):
        held_out = set(split(World(colors=tuple(COLORS)[:colors], shapes=SHAPES[:shapes]))[1])
        assert not any(held_out & meanings_within(groups) for _, groups in captions)


def test_what_parts_of_a_caption_mean() -> None:
    red, blue = Object("circle", "red"), Object("square", "blue")
    groups = [Group(red, 1), Group(blue, 1), Group(Object("star", "green"), 3)]
    assert {meaning.canonical for meaning in meanings_within(groups)} == {
        "a red circle",
        "a blue square",
        "a red circle and a blue square",
        "three stars",
    }
    plain = [Group(Object("ring"), 1), Group(Object("star"), 1), Group(blue, 1)]
    names = {meaning.canonical for meaning in meanings_within(plain)}
    assert names == {"a ring", "a star", "a star and a ring", "a blue square"}


def test_captions_name_every_group_once(captions: list[tuple[str, list[Group]]]) -> None:
    for caption, groups in captions:
        words = Counter(caption.split())
        for group in groups:
            shape = group.object.shape
            assert words[shape if group.count == 1 else plural(shape)] == 1
            assert group.count == 1 or words[NUMBER_WORDS[group.count]] + words[str(group.count)] >= 1
        colors = [group.object.color for group in groups if group.object.color]
        assert Counter(colors) == Counter({word: count for word, count in words.items() if word in COLORS})


def test_captions_fit_the_tokenizer_and_their_padding(captions: list[tuple[str, list[Group]]]) -> None:
    tokenizer = make_tokenizer()
    for caption, _ in captions:
        assert len(tokenizer(caption).input_ids) <= COMPOUND_TOKENS and not unknown_words(tokenizer, caption)


def test_targets_say_count_and_colour_of_each_shape() -> None:
    seen = frozenset(seen_meanings())
    ids, targets = sample_compounds(make_tokenizer(), seen, np.random.default_rng(3), 50)
    rng = np.random.default_rng(3)
    expected = [compound_caption(seen, rng)[1] for _ in range(50)]
    assert ids.shape == (50, COMPOUND_TOKENS) and targets.shape == (50, len(SHAPES), 3)
    for row, groups in zip(targets.tolist(), expected, strict=True):
        said = {group.object.shape: group for group in groups}
        for shape, (count, color, relation) in zip(SHAPES, row, strict=True):
            group = said.get(shape)
            assert count == (group.count if group else 0) and relation == 0
            assert (tuple(COLORS)[color - 1] if color else None) == (group.object.color if group else None)
