"""A vision-language model behind an OpenAI-compatible endpoint (`POST chat/completions` with an image)."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from lightgen_core.captioning.openai_captioner import parse_reply
from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import AnswerCache, Endpoint, EndpointError, RequestFailed
from lightgen_core.images.codec import decode_image, encode_image, image_shape, suffix_of
from lightgen_core.vlm.config import VlmConfig
from lightgen_core.vlm.vlm import FirstTokens

_LOGPROBS = MappingProxyType({"logprobs": True, "top_logprobs": 20})  # the most that OpenAI's interface gives
_SEEDS = 2**31  # servers keep the seed in 32 bits with a sign
_ALL_FAILED = 8  # so many requests without one answer are the server's fault, not the images'


class NoLogprobs(EndpointError):
    """An endpoint that does not tell the probabilities of tokens."""


class EndpointVlm:
    """Answer texts about images by `concurrency` requests at once; the server may or may not honour their seeds."""

    def __init__(self, endpoint: Endpoint, config: VlmConfig, concurrency: int, cache: Path | None = None) -> None:
        self._endpoint, self._config, self._concurrency = endpoint, config, concurrency
        self._answers = AnswerCache(cache)

    def write(self, images: Sequence[bytes], texts: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each text about its encoded image, in order.

        Raises:
            EndpointError: the endpoint cannot be used, or not one of eight requests or more got an answer.
        """
        replies = self._replies(images, texts, seeds)
        answers = [reply if isinstance(reply, Answer) else parse_reply(reply) for reply in replies]
        if len(answers) >= _ALL_FAILED and all(answer.error for answer in answers):
            raise EndpointError(f"all {len(answers)} requests failed, the first one: {answers[0].error}")
        return answers

    def first_tokens(self, images: Sequence[bytes], texts: Sequence[str]) -> list[FirstTokens | Answer]:
        """Return the likeliest first tokens of each answer, or the answer's error.

        Raises:
            EndpointError: the endpoint cannot be used; NoLogprobs: it does not tell probabilities.
        """
        replies = self._replies(images, texts, [0] * len(images), _LOGPROBS)
        return [reply if isinstance(reply, Answer) else self._tokens(reply) for reply in replies]

    def _tokens(self, reply: dict[str, Any]) -> FirstTokens:
        match reply:
            case {"choices": [{"logprobs": {"content": [{"top_logprobs": [*tokens]}, *_]}}, *_]}:
                return [(token["token"], token["logprob"]) for token in tokens]
        raise NoLogprobs(f"{self._config.model} answers without logprobs; take a server that gives them (vLLM, OpenAI)")

    def _replies(
        self,
        images: Sequence[bytes],
        texts: Sequence[str],
        seeds: Sequence[int],
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[dict[str, Any] | Answer]:
        """Return the whole chat completion for each text about its encoded image, or an answer with its error."""
        wanted = json.dumps(dict(more)).encode() if more else b""
        keys = [
            (hashlib.sha256(image + text.encode() + wanted).hexdigest(), seed)
            for image, text, seed in zip(images, texts, seeds, strict=True)
        ]
        with ThreadPoolExecutor(self._concurrency) as pool:
            replies = list(pool.map(partial(self._reply, more), keys, images, texts))
        self._answers.clear(keys)
        return replies

    def _reply(self, more: Mapping[str, Any], key: tuple[str, int], image: bytes, text: str) -> dict[str, Any] | Answer:
        def request() -> bytes:
            body = self._body(image, text, key[1]) | dict(more)
            return json.dumps(self._endpoint.post("chat/completions", body)).encode()

        try:
            return json.loads(self._answers.get(key, request))
        except RequestFailed as error:
            return Answer("", error=str(error))

    def _body(self, image: bytes, text: str, seed: int) -> dict[str, Any]:
        data = shrink(image, self._config.max_image_side)
        kind = {"jpg": "jpeg"}.get(suffix_of(data), suffix_of(data))
        url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        body = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_new_tokens,
            "seed": seed % _SEEDS,
        } | self._config.request
        return {name: value for name, value in body.items() if value is not None}


def shrink(image: bytes, side: int) -> bytes:
    """Return an encoded image with sides of at most `side` px: as it is, or resized and encoded as JPEG."""
    if max(image_shape(image)) <= side:
        return image
    smaller = Image.fromarray(decode_image(image))
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode_image(np.asarray(smaller), "jpeg")
