"""Interface of the vision-language models, in this process or behind an endpoint."""

from collections.abc import Sequence
from typing import Protocol

from lightgen_core.captioning.parse import Answer

FirstTokens = Sequence[tuple[str, float]]
"""Likeliest first tokens of an answer, each with its log-probability."""


class Vlm(Protocol):
    """A vision-language model that answers texts about images."""

    def write(self, images: Sequence[bytes], texts: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each text about its encoded image, each with its own seed."""

    def first_tokens(self, images: Sequence[bytes], texts: Sequence[str]) -> Sequence[FirstTokens | Answer]:
        """Return the likeliest first tokens of each answer, or the error for none."""
