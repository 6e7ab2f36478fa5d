"""Instructions to a language model: an even spread of a taxonomy, and seed captions to rewrite."""

from collections import Counter

import pytest
from pydantic import ValidationError

from lightgen_core.captioning.config import LLMConfig, Rewriting, Taxonomy
from lightgen_core.captioning.prompts import Instructions
from lightgen_core.captioning.select import Caption

AXES = {
    "subject": ("a cat", "a dog", "a boat"),
    "style": ("photo", "drawing"),
    "length": ("short", "long", "longer", "x"),
}
SMALL = Taxonomy(axes=AXES, template="{length} {style} of {subject}")
REWRITE = "Say it {length} as a {style}: {caption}"
SEEDS = [Caption(f"seed {n}", f"topic {n % 2}", f"seed {n}") for n in range(5)]


def first(instructions, count):
    return [instructions[place] for place in range(count)]


@pytest.mark.parametrize("count", [1, 2, 7, 12, 100])
def test_counts_of_an_axis_value_differ_by_one_at_most(count):
    """This holds for any number of instructions."""
    made = first(Instructions(SMALL, seed=3), count)
    for axis, values in AXES.items():
        used = Counter(each.values[axis] for each in made)
        counts = [used[value] for value in values]
        assert max(counts) - min(counts) <= 1


def test_instructions_show_their_values_and_have_own_seeds():
    made = first(Instructions(SMALL, seed=3), 100)
    assert all(each.text == "{length} {style} of {subject}".format(**each.values) for each in made)
    assert all(each.topic == each.values["subject"] for each in made)
    assert len({each.seed for each in made}) == 100
    assert len({each.text for each in first(Instructions(SMALL, seed=3), 24)}) > 12


def test_the_default_taxonomy_seldom_asks_twice_for_the_same():
    assert len({each.text for each in first(Instructions(Taxonomy(), seed=0), 1000)}) > 995


def test_instructions_follow_from_the_seed_and_the_index_alone():
    assert first(Instructions(SMALL, seed=3), 50)[40] == Instructions(SMALL, seed=3)[40]
    assert first(Instructions(SMALL, seed=3), 20) != first(Instructions(SMALL, seed=4), 20)


def test_the_order_of_axes_does_not_matter():
    """The artifact's key does not know the order either."""
    turned = SMALL.model_copy(update={"axes": dict(reversed(AXES.items()))})
    assert first(Instructions(turned, seed=3), 20) == first(Instructions(SMALL, seed=3), 20)


def test_rewriting_uses_seed_captions_and_styles_equally_often():
    made = first(Instructions(SMALL, 3, Rewriting(share=0.25, template=REWRITE), SEEDS), 80)
    rewritten = [each for each in made if each.rewrites]
    assert len(rewritten) == 20
    assert Counter(each.rewrites for each in rewritten) == {caption.text: 4 for caption in SEEDS}
    assert Counter(each.values["style"] for each in rewritten) == {"photo": 10, "drawing": 10}
    assert all(each.text.endswith(f": {each.rewrites}") and "subject" not in each.values for each in rewritten)
    assert {each.topic for each in rewritten} == {"topic 0", "topic 1"}
    counts = Counter(each.values["subject"] for each in made if not each.rewrites)
    assert set(counts.values()) == {20}


def test_braces_in_a_seed_caption_stay_as_they_are():
    made = Instructions(SMALL, 3, Rewriting(template=REWRITE), [Caption("a {sign} saying {caption}", "t", "m")])[0]
    assert made.text.endswith(": a {sign} saying {caption}")


def test_rewriting_nothing_is_an_error():
    with pytest.raises(ValueError, match="there is no seed caption to rewrite"):
        Instructions(SMALL, 3, Rewriting(template=REWRITE), [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "of {sujet}"}, r"template names 'sujet'; expected length, style, subject"),
        ({"template": "of {"}, r"template: .*write \{\{ and \}\} for braces"),
        ({"template": "of {subject.__class__}"}, "template names 'subject.__class__'"),
        ({"topic": "theme"}, "topic is 'theme'; expected one of the axes: subject"),
        ({"axes": AXES | {"mood": ()}}, "axes without a value: mood"),
    ],
)
def test_an_invalid_taxonomy_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Taxonomy(**(SMALL.model_dump() | changes))


@pytest.mark.parametrize(
    ("template", "message"),
    [("again, {style}", "does not say {caption}"), ("{mood}: {caption}", "rewrite.template names 'mood'")],
)
def test_an_invalid_rewriting_is_refused(template, message):
    with pytest.raises(ValidationError, match=message):
        LLMConfig(model="m", taxonomy=SMALL, rewrite=Rewriting(template=template))


def test_a_taxonomy_of_other_axes_needs_no_word_about_rewriting():
    asked = LLMConfig(model="m", taxonomy=Taxonomy(axes={"thing": ("cat",)}, topic="thing", template="a {thing}"))
    assert Instructions(asked.taxonomy, 0, asked.rewrite)[0].text == "a cat"
