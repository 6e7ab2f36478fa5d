"""From what a language model says to a caption, or to the reason why it is none."""

import pytest

from lightgen_core.captioning.config import AnswerFilters
from lightgen_core.captioning.parse import Answer, common_ngram, parse_caption
from lightgen_core.captioning.prompts import Instruction
from lightgen_core.rejected import Rejected

ASKED = Instruction("Write a caption of a cat on a mat in the old town. Answer with the caption alone.", "cat", {}, 0)
REWRITE = Instruction("Rewrite this in a few words: a cat on a mat in the old town at night", "t", {}, 0,
                      rewrites="a cat on a mat in the old town at night")  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        "A cat on a mat.",
        '  "A cat on a mat."\n',
        "1. A cat on a mat.\n2. Another one.",
        "- A cat on a mat.",
        "Caption: A cat on a mat.",
        "**Caption:** \u201cA cat on a mat.\u201d",
        "Caption 1: 'A cat on a mat.'",
        "Sure! Here is a caption:\n\nA cat on a mat.\n\nI hope you like it!",
        "<think>The user wants\na caption.</think>\n\nA cat on a mat.",
        "*A  cat on\ta mat.*",
        "```\nA cat on a mat.\n```",
    ],
)
def test_the_caption_is_extracted_from_what_models_put_around(said):
    assert parse_caption(Answer(said), ASKED, AnswerFilters()) == "A cat on a mat."


@pytest.mark.parametrize(
    "said", ['"Stop" and "Go" on two signs', "7 red balloons above a house", "the sign says: open"]
)
def test_what_belongs_to_a_caption_stays(said):
    assert parse_caption(Answer(said), ASKED, AnswerFilters()) == said


@pytest.mark.parametrize(
    ("answer", "asked", "reason"),
    [
        (Answer("", error="refused with status 400"), ASKED, "no answer"),
        (Answer(""), ASKED, "empty"),
        (Answer(' ""\n--'), ASKED, "empty"),
        (Answer("Here is your caption:"), ASKED, "empty"),
        (Answer("a cat"), ASKED, "too short"),
        (Answer("cat " * 121), ASKED, "too long"),
        (Answer("x" * 30_000), ASKED, "too long"),
        (Answer("I cannot help with that."), ASKED, "refusal"),
        (Answer("I\u2019m sorry, but as a model"), ASKED, "refusal"),
        (Answer("a cat on a mat in the", truncated=True), ASKED, "cut off"),
        (Answer("<think>What would a cat", truncated=True), ASKED, "cut off"),
        (Answer("write a caption of a cat on a mat, in the old style"), ASKED, "echo of the instruction"),
        (Answer("Rewrite this in a few words: a cat"), REWRITE, None),
        (Answer("A cat on a mat, in the old town at night!"), REWRITE, "seed caption unchanged"),
        (Answer("quietly a cat on a mat in the old town at night"), REWRITE, None),
        (Answer("a cat \ud800 on a mat"), ASKED, "not UTF-8"),
        (Answer("a cat on a mat\nand then it", truncated=True), ASKED, None),
    ],
)
def test_what_is_no_caption_is_rejected_with_its_reason(answer, asked, reason):
    try:
        parse_caption(answer, asked, AnswerFilters())
        found = None
    except Rejected as why:
        found = str(why.reason)
    assert found == reason


def test_every_filter_can_be_opened():
    open_wide = AnswerFilters(min_words=1, max_words=1000, allow_cut=True, refusals=(), max_echoed_words=0)
    for said in ("cat", "cat " * 900, "I cannot stop", ASKED.text):
        assert parse_caption(Answer(said, truncated=True), ASKED, open_wide) == said.strip()


def test_the_shared_run_is_detected_anywhere():
    assert common_ngram(list("xabcy"), list("qabc"), 3) == "a b c"
    assert common_ngram(list("abxc"), list("abc"), 3) == common_ngram([], [], 3) == ""
