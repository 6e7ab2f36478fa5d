"""Scores in the answers of a vision-language model."""

import re

from lightgen_core.captioning.parse import Answer
from lightgen_core.vlm.config import QuestionConfig

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?")


def judge_prompt(config: QuestionConfig, caption: str) -> str:
    """Return what the judge is asked about an image with a caption."""
    return config.prompt.format(caption=caption, lowest=f"{config.lowest:g}", highest=f"{config.highest:g}")


def parse_score(answer: Answer, config: QuestionConfig) -> float | None:
    """Return the first number of an answer, thinking left out; None if there is none on the judge's scale."""
    text = _THINKING.sub("", answer.text)
    number = None if answer.error or "<think>" in text else _NUMBER.search(text)
    score = float(number[0]) if number else None
    return score if score is not None and config.lowest <= score <= config.highest else None
