"""T2I-CompBench's scores by a vision-language model: a description first, then ratings. Free of torch.

The paper's alternative to its detectors (T2I-CompBench++, section on MLLM-based metrics): the steps and levels are the
authors', the words of the questions ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightgen_core.captioning.parse import Answer
from lightgen_core.evaluation.compbench import ATTRIBUTES
from lightgen_core.vlm.config import QuestionConfig
from lightgen_core.vlm.judge import parse_score

_OF_PHRASES = (0.10, 0.20, 0.75, 1.0)
_OF_PROMPTS = (0.2, 0.4, 0.6, 0.8, 1.0)
_FOCUS = {
    **{name: f"its objects, and the {name} of each" for name in ATTRIBUTES},
    **dict.fromkeys(("spatial", "3d_spatial"), "its objects, and where each of them is"),
    "non_spatial": "its objects, what they do, and how they relate to each other",
    "numeracy": "its objects, and how many there are of each",
    "complex": "its objects, their attributes, where they are, and what they do",
}
_DIFFERENCE = {
    **dict.fromkeys(("spatial", "3d_spatial"), "the objects are there, but not so placed"),
    "non_spatial": "the objects are there, but they do something else",
    "numeracy": "the objects are there, but in other numbers",
    "complex": "some of it is there, but key parts or details are missing",
}


class Phrase(NamedTuple):
    """A noun phrase of a prompt, and its noun."""

    text: str
    noun: str


def describe_question(category: str) -> str:
    """Return what the model is asked first."""
    return f"Describe this image in at most 50 words: {_FOCUS[category]}."


def rating_questions(category: str, caption: str, phrases: Sequence[Phrase], description: str) -> list[str]:
    """Return what the model is then asked: of attributes a question for each phrase, else one of the whole prompt."""
    if category in ATTRIBUTES:
        asked = [_of_phrase(category, phrase) for phrase in phrases]
    else:
        asked = [_of_prompt(category, caption)]
    return [f"You have described this image so: {description}\n{question}" for question in asked]


def _of_phrase(category: str, phrase: Phrase) -> str:
    noun = phrase.noun
    return (
        f'Judge by the image and your description: is there "{phrase.text}"? Give the number that fits.\n'
        f'4: there is {noun}, and its {category} is as "{phrase.text}" says\n'
        f"3: there is {noun}, and its {category} is mostly so\n"
        f"2: there is {noun}, but its {category} is another\n"
        f"1: there is no {noun}\nAnswer with the number alone."
    )


def _of_prompt(category: str, caption: str) -> str:
    return (
        f'Judge by the image and your description: does it show "{caption}"? Give the number that fits.\n'
        "5: it shows all of it correctly\n"
        "4: it shows most of it, with small differences\n"
        f"3: {_DIFFERENCE[category]}\n"
        "2: little of it is there\n"
        "1: the image has almost nothing to do with it\nAnswer with the number alone."
    )


def rating(answer: Answer, category: str) -> float | None:
    """Return the share that an answer's level counts; None for an answer that names no level."""
    levels = _OF_PHRASES if category in ATTRIBUTES else _OF_PROMPTS
    level = parse_score(answer, QuestionConfig(model="the judge", lowest=1, highest=len(levels)))
    return None if level is None or level != int(level) else levels[int(level) - 1]


def rated(ratings: Sequence[float]) -> float:
    """Return an image's score: the product of its ratings."""
    return float(np.prod(ratings))
