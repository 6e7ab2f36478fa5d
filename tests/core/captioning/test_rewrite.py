"""Prompts written out by a language model: what it is asked, and which answers are drawn."""

import pytest
from pydantic import ValidationError

from lightgen_core.captioning.config import PromptRewriting
from lightgen_core.captioning.parse import Answer
from lightgen_core.captioning.rewrite import parse_rewriting, rewriting_instruction

CONFIG = PromptRewriting(model="m")
PROMPT = "a red bicycle"
LONG = "A red bicycle leans against a white wall. Its wheels are thin, and its shadow is long."


def test_the_model_sees_the_prompt_and_what_to_keep():
    asked = rewriting_instruction(CONFIG, PROMPT)
    assert asked.endswith("Prompt: a red bicycle") and "every object, number, colour and position" in asked


@pytest.mark.parametrize(
    "text",
    [LONG, LONG.replace(". ", ".\n\n"), f'Caption: "{LONG}"', f"<think>a bicycle, red</think>\n{LONG}", f"1. {LONG}"],
)
def test_an_answer_of_any_form_is_its_whole_text(text):
    assert parse_rewriting(CONFIG, PROMPT, Answer(text)).caption == LONG


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("", error="503"), "no answer"),
        (Answer("I'm sorry, but I can't describe that."), "refusal"),
        (Answer(LONG, truncated=True), "cut off"),
        (Answer("A red bicycle."), "seed caption unchanged"),
        (Answer("red"), "too short"),
        (Answer("   "), "empty"),
    ],
)
def test_an_answer_that_is_no_caption_has_its_reason(answer, reason):
    found = parse_rewriting(CONFIG, PROMPT, answer)
    assert (found.caption, found.reason) == (None, reason)


def test_a_template_without_the_prompt_is_refused():
    with pytest.raises(ValidationError, match=r"does not say \{caption\}"):
        PromptRewriting(model="m", template="Describe something.")
