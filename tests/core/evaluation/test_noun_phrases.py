"""Prompts split by spaCy: noun phrases, nouns beside a relation, words without adjectives."""

import pytest

pytest.importorskip("spacy")

from lightgen_core.evaluation.compbench import placement_in
from lightgen_core.evaluation.noun_phrases import ParserMissing, PhraseParser
from tests.factories.tiny_compbench import save_list_parser


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    return PhraseParser.load(save_list_parser(tmp_path_factory.mktemp("parser") / "by_list"))


def test_noun_phrases_are_found_with_their_nouns(parser):
    assert parser.phrases("a green bench and a blue bowl") == [("a green bench", "bench"), ("a blue bowl", "bowl")]
    assert len(parser.phrases(" and ".join(["a red cup"] * 12))) == 8


def test_a_phrase_that_names_a_place_is_left_out(parser):
    assert [phrase.text for phrase in parser.phrases("a cat on the left of a cup")] == ["a cat", "a cup"]


def test_nouns_stand_on_both_sides_of_a_relation(parser):
    caption = "a table and the red hat was on top of the brown rack near a door"
    placement = placement_in(caption)
    assert placement is not None
    assert parser.nouns_around(caption, placement) == ("hat", "rack")
    assert parser.outer_nouns("a cat near a cup") == ("cat", "cup")
    assert parser.outer_nouns("and") == (None, None)


def test_adjectives_are_taken_away(parser):
    assert parser.without_adjectives("the red cat chases a soft ball") == "the cat chases a ball"


def test_a_parser_says_its_version(parser):
    assert parser.name == "en_by_list 1.0.0"


def test_a_parser_that_is_not_there_is_named_with_the_command(tmp_path):
    with pytest.raises(ParserMissing, match=r"no pipeline no_such here .*python -m spacy download en_core_web_sm"):
        PhraseParser.load("no_such")


def test_a_pipeline_that_does_not_parse_is_refused(tmp_path):
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ParserMissing, match="has no parts; expected one that tags"):
        PhraseParser.load(str(tmp_path / "blank"))
