"""A language model behind an OpenAI-compatible endpoint that writes captions (`POST chat/completions`)."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightgen_core.captioning.config import WriterConfig
from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import AnswerCache, Endpoint, EndpointError, RequestFailed

_SEEDS = 2**31  # servers keep the seed in 32 bits with a sign
_TRUNCATED = ("length", "max_tokens", "model_length", "content_filter", "safety", "error")  # reasons to finish
_ALL_FAILED = 8  # so many requests without one answer are the server's fault, not the instructions'


class OpenAICaptioner:
    """Write captions by `concurrency` requests at once; the server may or may not honour their seeds."""

    def __init__(self, endpoint: Endpoint, config: WriterConfig, concurrency: int, cache: Path | None = None) -> None:
        self._endpoint, self._config, self._concurrency = endpoint, config, concurrency
        self._answers = AnswerCache(cache)

    def write(self, instructions: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each instruction, in order.

        Raises:
            EndpointError: the endpoint cannot be used (requests that were not yet sent are not sent), or not one of
                eight instructions or more got an answer.
        """
        with ThreadPoolExecutor(self._concurrency) as pool:
            answers = list(pool.map(self._answer, instructions, seeds))
        if len(answers) >= _ALL_FAILED and all(answer.error for answer in answers):
            raise EndpointError(f"all {len(answers)} requests failed, the first one: {answers[0].error}")
        self._answers.clear(zip(instructions, seeds, strict=True))
        return answers

    def _answer(self, instruction: str, seed: int) -> Answer:
        body = self._body(instruction, seed)
        try:
            reply = json.loads(
                self._answers.get(
                    (instruction, seed), lambda: json.dumps(self._endpoint.post("chat/completions", body)).encode()
                )
            )
        except RequestFailed as error:
            return Answer("", error=str(error))
        return parse_reply(reply)

    def _body(self, instruction: str, seed: int) -> dict[str, Any]:
        body = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": instruction}],
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "max_tokens": self._config.max_new_tokens,
            "seed": seed % _SEEDS,
        } | self._config.request
        return {name: value for name, value in body.items() if value is not None}


def parse_reply(reply: Any) -> Answer:
    """Return the answer in a chat completion, or the error for none."""
    match reply:
        case {"choices": [{"message": {"content": content}, **choice}, *_]} if text := _text_of(content):
            return Answer(text, truncated=str(choice.get("finish_reason")).lower() in _TRUNCATED)
        case {"choices": [{"message": {"refusal": str(refusal)}}, *_]} if refusal:
            return Answer("", error=f"refused: {refusal[:200]!r}")
        case {"choices": [{"finish_reason": str(reason)}, *_]}:
            return Answer("", error=f"no text; finish_reason {reason[:100]!r}")
    return Answer("", error=f"no chat completion: {ascii(reply)[:200]}")


def _text_of(content: Any) -> str:
    """Return a message's text, which some servers break into parts."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts)
