"""A vision-language model behind an OpenAI-compatible endpoint (`POST chat/completions` with an image)."""

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightgen_core.captioning.openai_captioner import parse_reply
from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import AnswerCache, Endpoint, EndpointError, RequestFailed
from lightgen_core.images.codec import decode_image, encode_image, image_shape, suffix_of
from lightgen_core.vlm.config import EndpointModel

_SEEDS = 2**31  # servers keep the seed in 32 bits with a sign
_ALL_FAILED = 8  # so many requests without one answer are the server's fault, not the images'


class EndpointVlm:
    """Answer texts about images by `concurrency` requests at once; the server may or may not honour their seeds."""

    def __init__(self, endpoint: Endpoint, config: EndpointModel, concurrency: int, cache: Path | None = None) -> None:
        self._endpoint, self._config, self._concurrency = endpoint, config, concurrency
        self._answers = AnswerCache(cache)

    def write(self, images: Sequence[bytes], texts: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        """Answer each text about its encoded image, in order.

        Raises:
            EndpointError: the endpoint cannot be used, or not one of eight requests or more got an answer.
        """
        replies = self.replies(images, texts, seeds)
        answers = [reply if isinstance(reply, Answer) else parse_reply(reply) for reply in replies]
        if len(answers) >= _ALL_FAILED and all(answer.error for answer in answers):
            raise EndpointError(f"all {len(answers)} requests failed, the first one: {answers[0].error}")
        return answers

    def replies(
        self, images: Sequence[bytes], texts: Sequence[str], seeds: Sequence[int]
    ) -> list[dict[str, Any] | Answer]:
        """Return the whole chat completion for each text about its encoded image, or an answer with its error.

        Raises:
            EndpointError: the endpoint cannot be used.
        """
        keys = [
            (hashlib.sha256(image + text.encode()).hexdigest(), seed)
            for image, text, seed in zip(images, texts, seeds, strict=True)
        ]
        with ThreadPoolExecutor(self._concurrency) as pool:
            replies = list(pool.map(self._reply, keys, images, texts))
        self._answers.clear(keys)
        return replies

    def _reply(self, key: tuple[str, int], image: bytes, text: str) -> dict[str, Any] | Answer:
        def request() -> bytes:
            body = self._body(image, text, key[1])
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
