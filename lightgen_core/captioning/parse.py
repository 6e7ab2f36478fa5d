"""Parse a language model's answer into a caption."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lightgen_core.captioning.config import AnswerFilters
from lightgen_core.captioning.prompts import Instruction
from lightgen_core.captioning.readers import clean
from lightgen_core.captioning.reasons import Reason
from lightgen_core.dedup.minhash import normalize_words
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
    """A model's answer, `truncated` by the token limit or a content filter; `error`: the reason for none."""

    text: str
    truncated: bool = False
    error: str = ""


class Captioner(Protocol):
    """A language model that writes captions."""

    def write(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each instruction, each with its own seed."""


def parse_caption(answer: Answer, instruction: Instruction, filters: AnswerFilters) -> str:
    """Return an answer's first line of content without numbering, label and quotes.

    Raises:
        Rejected: the answer holds no caption that passes the filters.
    """
    if answer.error:
        raise Rejected(Reason.NO_ANSWER, answer.error)
    text = _THINKING.sub("", answer.text)
    if "<think>" in text:
        raise Rejected(Reason.CUT_OFF, "the answer ends before the thinking does")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # "Sure, here is a caption:" announces what follows it.
    content = next(
        (index for index, line in enumerate(lines) if normalize_words(_strip_markup(line)) and not line.endswith(":")),
        None,
    )
    if content is None:
        raise Rejected(Reason.EMPTY)
    caption = clean(_strip_markup(lines[content]), _CHARACTERS)
    if answer.truncated and content == len(lines) - 1 and not filters.allow_cut and not text.endswith("\n"):
        raise Rejected(Reason.CUT_OFF, "at the token limit or by a content filter")
    if caption.casefold().replace("\u2019", "'").startswith(tuple(start.casefold() for start in filters.refusals)):
        raise Rejected(Reason.REFUSAL)
    words = normalize_words(caption)
    if not filters.min_words <= len(words) <= filters.max_words:
        reason = Reason.TOO_SHORT if len(words) < filters.min_words else Reason.TOO_LONG
        raise Rejected(reason, f"{len(words)} words; expected {filters.min_words} to {filters.max_words}")
    if words == normalize_words(instruction.rewrites):
        raise Rejected(Reason.UNCHANGED)
    # Words of the seed caption may come back; words of the rest of the instruction may not.
    for part in instruction.text.split(instruction.rewrites) if instruction.rewrites else [instruction.text]:
        if filters.max_echoed_words and (echo := common_ngram(words, normalize_words(part), filters.max_echoed_words)):
            raise Rejected(Reason.ECHO, echo)
    return caption


def common_ngram(words: Sequence[str], others: Sequence[str], length: int) -> str:
    """Return the first n-gram of `length` words in both texts, or ""."""
    ngrams = {tuple(others[start : start + length]) for start in range(len(others) - length + 1)}
    for start in range(len(words) - length + 1):
        if tuple(words[start : start + length]) in ngrams:
            return " ".join(words[start : start + length])
    return ""


def _strip_markup(line: str) -> str:
    """Return a line without the markup that models put around a caption."""
    before = ""
    while line != before:
        before = line
        line = _LABEL.sub("", _NUMBERING.sub("", line)).strip()
        if len(line) > 1 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
            line = line[1:-1].strip()
    return line
