"""An OpenAI-compatible images endpoint as a teacher: the paper's DALL-E 3, or a server of one's own."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import numpy as np

from lightgen_core.endpoint import Endpoint, EndpointError, RequestFailed, RequestRefused
from lightgen_core.images.ordered_map import map_ahead
from lightgen_core.images.untrusted import Untrusted
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.teachers.config import ImageEndpointConfig

_FETCHES = 3
_HOPELESS = 20  # prompts in a row without an answer: the server is broken, not the prompts


class EndpointTeacher:
    """Draws with `POST <url>/images/generations`, one picture a request.

    Most endpoints draw what they like: the same prompt gives another picture the next time, unless the server honours
    the seed. What was drawn is kept by the store, not by the seed.

    Args:
        endpoint: holds the address, the key, the rate limit and the patience.
        concurrency: requests under way at once.
    """

    def __init__(self, config: ImageEndpointConfig, endpoint: Endpoint, concurrency: int) -> None:
        self.config, self.endpoint, self.concurrency = config, endpoint, concurrency
        self._decoder = Untrusted(config.max_pixels, config.size, _expected(config))
        self._host = httpx2.URL(endpoint.url).host

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[np.ndarray | Rejected]:
        """Yield, in order, a uint8 picture (height, width, 3) of each prompt, or why there is none.

        Raises:
            EndpointError: no request can succeed, or none did for many prompts in a row.
        """
        unanswered = 0
        for drawn in map_ahead(self._one, zip(prompts, seeds, strict=True), self.concurrency):
            unanswered = unanswered + 1 if isinstance(drawn, Rejected) and drawn.reason is Reason.NO_ANSWER else 0
            if unanswered == _HOPELESS:
                raise EndpointError(f"{self.endpoint.url}: {unanswered} prompts in a row without a picture; {drawn}")
            yield drawn

    def _one(self, asked: tuple[str, int]) -> np.ndarray | Rejected:
        prompt, seed = asked
        words = {"size": self.config.request_size, "response_format": self.config.response_format}
        body = {"model": self.config.model, "prompt": prompt, "n": 1} | dict(self.config.arguments)
        body |= {name: value for name, value in words.items() if value is not None}
        body |= {"seed": seed} if self.config.send_seed else {}
        try:
            return self._decoder.array(self._picture_of(self.endpoint.post("images/generations", body)))
        except RequestRefused as error:
            return Rejected(Reason.REFUSED, str(error))
        except RequestFailed as error:
            return Rejected(Reason.NO_ANSWER, str(error))
        except Rejected as why:
            return why.kept()

    def _picture_of(self, answer: dict[str, Any]) -> bytes:
        """Return the encoded picture that an answer holds or points to."""
        data = answer.get("data")
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, dict):
            raise Rejected(Reason.NO_ANSWER, f"the answer has no data: {ascii(sorted(answer))[:200]}")
        if isinstance(encoded := first.get("b64_json"), str):
            if len(encoded) > self.config.max_bytes * 4 / 3 + 4:
                raise Rejected(Reason.PICTURE_TOO_LARGE, f"more than {self.config.max_bytes} bytes")
            try:
                return base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError) as error:
                raise Rejected(Reason.NO_ANSWER, f"b64_json is not base64: {error}") from error
        if isinstance(url := first.get("url"), str):
            return self._fetch(url)
        raise Rejected(Reason.NO_ANSWER, f"neither b64_json nor url in {ascii(sorted(first))[:200]}")

    def _fetch(self, url: str) -> bytes:
        """Fetch a picture: without the key, without redirects, over https unless it is the endpoint's own host."""
        try:
            address = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise Rejected(Reason.NO_ANSWER, f"the picture's address cannot be read: {error}") from error
        if address.scheme != "https" and not (address.scheme == "http" and address.host == self._host):
            raise Rejected(Reason.NO_ANSWER, f"the picture's address is {address.scheme}, not https: {address.host}")
        trouble = ""
        for _ in range(_FETCHES):
            try:
                return self._download(address)
            except httpx2.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
        raise Rejected(Reason.NO_ANSWER, f"the picture at {address.host} could not be fetched: {trouble}"[:500])

    def _download(self, address: httpx2.URL) -> bytes:
        data = bytearray()
        with httpx2.stream("GET", address, timeout=self.endpoint.timeout) as response:
            response.raise_for_status()
            for block in response.iter_bytes(1 << 16):
                data += block
                if len(data) > self.config.max_bytes:
                    raise Rejected(Reason.PICTURE_TOO_LARGE, f"more than {self.config.max_bytes} bytes")
        return bytes(data)


def _expected(config: ImageEndpointConfig) -> tuple[int, int] | None:
    """Return the height and width that every picture must have."""
    if config.size is not None:
        return config.size, config.size
    if config.request_size is None:
        return None
    width, height = map(int, config.request_size.split("x"))
    return height, width
