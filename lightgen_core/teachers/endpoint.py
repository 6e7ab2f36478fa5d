"""An OpenAI-compatible images endpoint as teacher: DALL-E 3, or your own server."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from lightgen_core.endpoint import AnswerCache, Endpoint, EndpointError, RequestFailed, RequestRefused
from lightgen_core.images.ordered_map import ordered_map
from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.rejected import Reason, Rejected
from lightgen_core.teachers.config import ImageEndpointConfig

_DOWNLOAD_ATTEMPTS = 3
_MAX_UNANSWERED = 20  # prompts in a row without an answer: the server is broken, not the prompts


class EndpointTeacher:
    """Generate images with `POST <url>/images/generations`, one per request, `concurrency` requests at once.

    The same prompt gives another image the next time unless the server honours the seed; the store keeps the images.
    """

    def __init__(
        self, config: ImageEndpointConfig, endpoint: Endpoint, concurrency: int, cache: Path | None = None
    ) -> None:
        self.config, self.endpoint, self.concurrency = config, endpoint, concurrency
        self._answers = AnswerCache(cache)
        size: tuple[int, ...] | None = None
        if config.size is not None:
            size = config.size, config.size
        elif config.request_size is not None:
            size = tuple(map(int, config.request_size.split("x")))[::-1]  # width x height
        self._decoder = SafeImageDecoder(config.max_pixels, config.size, size)
        self._host = httpx2.URL(endpoint.url).host

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[np.ndarray | Rejected]:
        """Yield a uint8 image (height, width, 3) or an error per prompt, in order.

        Raises:
            EndpointError: no request can succeed, or none did for many prompts in a row.
        """
        unanswered, requests = 0, list(zip(prompts, seeds, strict=True))
        for image in ordered_map(self._generate_one, requests, self.concurrency):
            unanswered = unanswered + 1 if isinstance(image, Rejected) and image.reason is Reason.NO_ANSWER else 0
            if unanswered == _MAX_UNANSWERED:
                raise EndpointError(f"{self.endpoint.url}: {unanswered} prompts in a row without an image; {image}")
            yield image
        self._answers.clear(requests)

    def _generate_one(self, request: tuple[str, int]) -> np.ndarray | Rejected:
        prompt, seed = request
        optional = {"size": self.config.request_size, "response_format": self.config.response_format}
        body = {"model": self.config.model, "prompt": prompt, "n": 1} | dict(self.config.arguments)
        body |= {name: value for name, value in optional.items() if value is not None}
        body |= {"seed": seed} if self.config.send_seed else {}
        try:
            return self._decoder.decode(
                self._answers.get(request, lambda: self._image_bytes(self.endpoint.post("images/generations", body)))
            )
        except RequestRefused as error:
            return Rejected(Reason.REFUSED, str(error))
        except RequestFailed as error:
            return Rejected(Reason.NO_ANSWER, str(error))
        except Rejected as error:
            return error.without_frames()

    def _image_bytes(self, answer: dict[str, Any]) -> bytes:
        """Return the encoded image in an answer, or at the address it names."""
        data = answer.get("data")
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, dict):
            raise Rejected(Reason.NO_ANSWER, f"the answer has no data: {ascii(sorted(answer))[:200]}")
        if isinstance(encoded := first.get("b64_json"), str) and encoded:
            return self._decode_base64(encoded)
        if isinstance(url := first.get("url"), str) and url:
            return self._decode_base64(url) if url.startswith("data:") else self._fetch(url)
        raise Rejected(Reason.NO_ANSWER, f"neither b64_json nor url in {ascii(sorted(first))[:200]}")

    def _decode_base64(self, text: str) -> bytes:
        """Decode base64 of either alphabet (RFC 4648, 4 and 5), broken into lines, unpadded or as a data URL."""
        if len(text) > self.config.max_bytes * 1.4 + 100:
            raise Rejected(Reason.IMAGE_TOO_LARGE, f"more than {self.config.max_bytes} bytes")
        text = "".join(text.rpartition(",")[2].split()).replace("-", "+").replace("_", "/").rstrip("=")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Rejected(Reason.NO_ANSWER, f"b64_json is not base64: {error}") from error

    def _fetch(self, url: str) -> bytes:
        """Download an image without key or redirects, over https or from the own host."""
        try:
            address = httpx2.URL(self.endpoint.url).join(url)
        except httpx2.InvalidURL as error:
            raise Rejected(Reason.NO_ANSWER, f"the image's address cannot be read: {error}") from error
        if address.scheme != "https" and not (address.scheme == "http" and address.host == self._host):
            raise Rejected(Reason.NO_ANSWER, f"the image's address is {address.scheme}, not https: {address.host}")
        message = ""
        for _ in range(_DOWNLOAD_ATTEMPTS):
            try:
                return self._download(address)
            except httpx2.HTTPError as error:
                message = f"{type(error).__name__}: {error}"
        raise Rejected(Reason.NO_ANSWER, f"the image at {address.host} could not be fetched: {message}"[:500])

    def _download(self, address: httpx2.URL) -> bytes:
        data = bytearray()
        with httpx2.stream("GET", address, timeout=self.endpoint.timeout) as response:
            response.raise_for_status()
            for block in response.iter_bytes(1 << 16):
                data += block
                if len(data) > self.config.max_bytes:
                    raise Rejected(Reason.IMAGE_TOO_LARGE, f"more than {self.config.max_bytes} bytes")
        return bytes(data)
