"""Short and long captions from the answers of a vision-language model."""

from dataclasses import dataclass
from typing import Literal

from lightgen_core.captioning.parse import Answer, parse_caption
from lightgen_core.captioning.prompts import Instruction
from lightgen_core.rejected import Rejected
from lightgen_core.vlm.config import RecaptionConfig

Kind = Literal["short", "long"]
KINDS: tuple[Kind, ...] = ("short", "long")


@dataclass(frozen=True)
class Recaption:
    """A caption, or the reason and the detail for none."""

    caption: str | None
    reason: str | None = None
    detail: str | None = None


def recaption_prompt(config: RecaptionConfig, kind: Kind, caption: str) -> str:
    """Return what the model is asked about an image with an original caption."""
    template = config.short_prompt if kind == "short" else config.long_prompt
    return template.format(caption=caption)


def parse_recaption(config: RecaptionConfig, kind: Kind, prompt: str, answer: Answer) -> Recaption:
    """Return the caption in an answer; a long one may have several lines."""
    filters = config.short_filters if kind == "short" else config.long_filters
    if kind == "long" and not answer.error:
        answer = Answer(" ".join(answer.text.split()), answer.truncated)
    try:
        return Recaption(parse_caption(answer, Instruction(prompt, "", {}, 0), filters))
    except Rejected as rejected:
        return Recaption(None, str(rejected.reason), rejected.detail)
