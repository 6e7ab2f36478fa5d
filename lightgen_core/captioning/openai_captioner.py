"""A language model behind an OpenAI-compatible endpoint that writes captions (`POST chat/completions`)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lightgen_core.captioning.config import LLMConfig
from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import Endpoint, EndpointError, RequestFailed

_SEEDS = 2**31  # servers keep the seed in 32 bits with a sign
_ALL_FAILED = 8  # so many requests without one answer are the server's fault, not the instructions'


class OpenAICaptioner:
    """Write captions by `concurrency` requests at once; the server may or may not honour their seeds."""

    def __init__(self, endpoint: Endpoint, config: LLMConfig, concurrency: int) -> None:
        self._endpoint, self._config, self._concurrency = endpoint, config, concurrency

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
        return answers

    def _answer(self, instruction: str, seed: int) -> Answer:
        try:
            reply = self._endpoint.post("chat/completions", self._body(instruction, seed))
        except RequestFailed as error:
            return Answer("", error=str(error))
        match reply:
            case {"choices": [{"message": {"content": str(text)}, **choice}, *_]} if text:
                return Answer(text, truncated=choice.get("finish_reason") in ("length", "content_filter"))
            case {"choices": [{"finish_reason": str(reason)}, *_]}:
                return Answer("", error=f"no text; finish_reason {reason[:100]!r}")
        return Answer("", error=f"no chat completion: {ascii(reply)[:200]}")

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
