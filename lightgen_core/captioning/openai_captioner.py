"""A language model behind an OpenAI-compatible endpoint that writes captions (`POST chat/completions`)."""

from collections.abc import Sequence
from typing import Any

from lightgen_core.captioning.config import LanguageModel
from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import Endpoint, EndpointError, RequestFailed

_SEEDS = 2**31  # servers keep the seed in 32 bits with a sign
_ALL_FAILED = 8  # so many requests without one answer are the server's fault, not the instructions'


class ChatWriter:
    """Writes captions by requests, `concurrency` of them at once.

    Each request carries its seed; whether the same seed gives the same caption is up to the server.
    """

    def __init__(self, endpoint: Endpoint, asked: LanguageModel, concurrency: int) -> None:
        self._endpoint, self._asked, self._concurrency = endpoint, asked, concurrency

    def write(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each instruction.

        Raises:
            EndpointError: the endpoint cannot be used, or not one of eight instructions or more got an answer.
        """
        bodies = [self._body(text, seed) for text, seed in zip(instructions, seeds, strict=True)]
        replies = self._endpoint.post_all("chat/completions", bodies, self._concurrency)
        answers = [
            Answer("", missing=str(reply)) if isinstance(reply, RequestFailed) else _answer(reply) for reply in replies
        ]
        if len(answers) >= _ALL_FAILED and all(answer.missing for answer in answers):
            raise EndpointError(f"all {len(answers)} requests failed, the first one: {answers[0].missing}")
        return answers

    def _body(self, instruction: str, seed: int) -> dict[str, Any]:
        body = {
            "model": self._asked.model,
            "messages": [{"role": "user", "content": instruction}],
            "temperature": self._asked.temperature,
            "top_p": self._asked.top_p,
            "max_tokens": self._asked.max_new_tokens,
            "seed": seed % _SEEDS,
        } | self._asked.request
        return {name: value for name, value in body.items() if value is not None}


def _answer(reply: dict[str, Any]) -> Answer:
    """The text of a chat completion; servers also send none (a filter), or something else altogether."""
    match reply:
        case {"choices": [{"message": {"content": str(text)}, **rest}, *_]} if text:
            return Answer(text, cut=rest.get("finish_reason") == "length")
        case {"choices": [{"finish_reason": str(why)}, *_]}:
            return Answer("", missing=f"no text; finish_reason {why[:100]!r}")
    return Answer("", missing=f"no chat completion: {ascii(reply)[:200]}")
