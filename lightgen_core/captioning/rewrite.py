"""Prompts written out as captions of the kind that a student learned from, by a language model.

A student of long captions alone draws short prompts badly; rewritten ones it draws as its captions.
"""

from dataclasses import dataclass

from lightgen_core.captioning.config import PromptRewriting
from lightgen_core.captioning.parse import Answer, parse_caption
from lightgen_core.captioning.prompts import Instruction
from lightgen_core.rejected import Rejected


@dataclass(frozen=True)
class RewrittenPrompt:
    """Caption to sample instead of a prompt, or None with the reason and its detail: the prompt itself is sampled."""

    caption: str | None
    reason: str | None = None
    detail: str | None = None


def rewriting_instruction(config: PromptRewriting, prompt: str) -> str:
    """Return what the model is asked."""
    return config.template.format(caption=prompt)


def parse_rewriting(config: PromptRewriting, prompt: str, answer: Answer) -> RewrittenPrompt:
    """Return the caption in an answer, which may have several lines."""
    joined = answer if answer.error else Answer(" ".join(answer.text.split()), answer.truncated)
    instruction = Instruction(rewriting_instruction(config, prompt), "", {}, 0, rewrites=prompt)
    try:
        return RewrittenPrompt(parse_caption(joined, instruction, config.filters))
    except Rejected as rejected:
        return RewrittenPrompt(None, str(rejected.reason), rejected.detail)
