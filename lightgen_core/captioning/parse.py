"""From what a language model says to a caption, or to the reason why it is none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lightgen_core.captioning.config import AnswerFilters
from lightgen_core.captioning.prompts import Instruction
from lightgen_core.captioning.readers import clean
from lightgen_core.captioning.reasons import Reason
from lightgen_core.dedup.minhash import words_of
from lightgen_core.rejected import Rejected

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_NUMBERING = re.compile(r"^(?:[-*•#>]+|\(?\d{1,3}[.):])\s+")
_LABEL = re.compile(
    r"^(?:\*\*)?(?:new |rewritten )?(?:caption|answer|prompt)(?: \d+)?(?:\*\*)?\s*:\s*(?:\*\*)?\s*", re.I
)
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»", "`": "`", "*": "*", "_": "_"}
_CHARACTERS = 20_000


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: as it came.
        cut: whether the token limit ended it.
        missing: why there is no answer; "": there is one.
    """

    text: str
    cut: bool = False
    missing: str = ""


class Writer(Protocol):
    """A language model."""

    def write(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each instruction, with a seed of its own."""


def caption_of(answer: Answer, asked: Instruction, filters: AnswerFilters) -> str:
    """Return the caption in an answer: its first line of content, without numbering, label and quotation marks.

    Raises:
        Rejected: the answer holds no caption that passes the filters.
    """
    if answer.missing:
        raise Rejected(Reason.NO_ANSWER, answer.missing)
    said = _THINKING.sub("", answer.text)
    if "<think>" in said:
        raise Rejected(Reason.CUT_OFF, "the answer ends before the thinking does")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # "Sure, here is a caption:" announces what follows it.
    content = next((at for at, line in enumerate(lines) if words_of(_bare(line)) and not line.endswith(":")), None)
    if content is None:
        raise Rejected(Reason.EMPTY)
    caption = clean(_bare(lines[content]), _CHARACTERS)
    if answer.cut and content == len(lines) - 1 and not filters.allow_cut and not said.endswith("\n"):
        raise Rejected(Reason.CUT_OFF, "at the token limit or by a content filter")
    if caption.casefold().replace("\u2019", "'").startswith(tuple(start.casefold() for start in filters.refusals)):
        raise Rejected(Reason.REFUSAL)
    words = words_of(caption)
    if not filters.min_words <= len(words) <= filters.max_words:
        reason = Reason.TOO_SHORT if len(words) < filters.min_words else Reason.TOO_LONG
        raise Rejected(reason, f"{len(words)} words; expected {filters.min_words} to {filters.max_words}")
    if words == words_of(asked.rewrites):
        raise Rejected(Reason.UNCHANGED)
    # What the seed caption says may be said again; what is around it may not.
    for part in asked.text.split(asked.rewrites) if asked.rewrites else [asked.text]:
        if filters.max_echoed_words and (echo := shared_run(words, words_of(part), filters.max_echoed_words)):
            raise Rejected(Reason.ECHO, echo)
    return caption


def shared_run(words: Sequence[str], others: Sequence[str], length: int) -> str:
    """Return the first `length` words in a row that both texts have; "" where they have none."""
    runs = {tuple(others[at : at + length]) for at in range(len(others) - length + 1)}
    for at in range(len(words) - length + 1):
        if tuple(words[at : at + length]) in runs:
            return " ".join(words[at : at + length])
    return ""


def _bare(line: str) -> str:
    """A line without what models put around a caption."""
    before = ""
    while line != before:
        before = line
        line = _LABEL.sub("", _NUMBERING.sub("", line)).strip()
        if len(line) > 1 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
            line = line[1:-1].strip()
    return line
