"""Captions of GenEval's form, read back: GenEval's own, ours, and others that only resemble them."""

import json

import pytest

from lightgen_core.evaluation.geneval_captions import read_caption
from lightgen_core.evaluation.geneval_prompts import geneval_prompts, metadata_prompt


def test_every_prompt_that_is_built_is_read_as_it_was_meant():
    assert [read_caption(prompt.caption) for prompt in geneval_prompts()] == list(geneval_prompts())


OF_ITS_AUTHORS = [
    {"tag": "counting", "include": [{"class": "wine glass", "count": 3}],
     "exclude": [{"class": "wine glass", "count": 4}], "prompt": "a photo of three wine glasss"},
    {"tag": "colors", "include": [{"class": "orange", "count": 1, "color": "orange"}],
     "prompt": "a photo of an orange orange"},
    {"tag": "color_attr", "include": [{"class": "tie", "count": 1, "color": "black"},
     {"class": "orange", "count": 1, "color": "green"}], "prompt": "a photo of a black tie and a green orange"},
    {"tag": "position", "include": [{"class": "hot dog", "count": 1}, {"class": "skis", "count": 1,
     "position": ["left of", 0]}], "prompt": "a photo of a skis left of a hot dog"},
    {"tag": "two_object", "include": [{"class": "fire hydrant", "count": 1}, {"class": "train", "count": 1}],
     "prompt": "a photo of a fire hydrant and a train"},
]  # fmt: skip
"""Lines as those of `evaluation_metadata.jsonl`, with its plurals and articles."""


@pytest.mark.parametrize("row", OF_ITS_AUTHORS, ids=lambda row: row["tag"])
def test_prompts_of_its_authors_are_read(row):
    assert read_caption(row["prompt"]) == metadata_prompt(json.dumps(row), "line")


def test_case_stop_and_beginning_may_differ():
    (wanted,) = {read_caption(text).meaning for text in ("a photo of two dogs", "Two dogs.", "A photo of  two DOGS")}
    assert json.loads(wanted)["include"] == [{"class": "dog", "count": 2}]


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle",  # the scene world's
        "a photo of a happy dog",
        "a photo of dog",
        "a photo of two dog",
        "a photo of nine dogs",
        "a photo of a red dog and a cat",
        "a photo of a dog and a cat and a bird",
        "a photo of a dog next to a cat",
        "a photo of a dog left of a red cat",
        "",
    ],
)
def test_another_form_is_not_read(caption):
    assert read_caption(caption) is None
