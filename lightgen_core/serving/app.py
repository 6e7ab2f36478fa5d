"""OpenAI's interface for images, `POST /v1/images/generations`, over a student."""

import asyncio
import base64
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lightgen_core.config import SamplerConfig
from lightgen_core.images.codec import encode_png
from lightgen_core.sampling.inpaint import inpaint
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.serving.batcher import Batcher, Closed, ImageRequest, Masked, QueueFull

MAX_BODY = 65_536
"""Bytes of a request without images."""
MAX_IMAGES = 10
"""Images of one request, as at OpenAI."""
MAX_AREA = 4
"""Largest image, in areas of those that the student was trained on."""
RETRY_SECONDS = {429: 1, 503: 5}


class RequestError(Exception):
    """A request that cannot be served, with its HTTP status and OpenAI's code."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class SamplingRequest(BaseModel):
    """Fields of every request for images; unknown ones are refused. steps, guidance_scale and seed are not OpenAI's."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=4000, pattern=r"\S")
    n: int = Field(1, ge=1, le=MAX_IMAGES)
    seed: int | None = Field(None, ge=0, lt=2**63 - MAX_IMAGES, description="of the first image; each further adds 1")
    steps: int | None = Field(None, ge=1, le=1024, description="iterations")
    guidance_scale: float | None = Field(None, ge=1, le=100)


class GenerationRequest(SamplingRequest):
    """Body of a request for images."""

    model: str | None = None
    size: str | None = Field(None, pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$", description="WIDTHxHEIGHT, px")
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    # Without meaning here, and sent by clients made for OpenAI.
    background: str | None = None
    moderation: str | None = None
    quality: str | None = None
    style: str | None = None
    user: str | None = None


def batch_sampler(model: TextToImage) -> Callable[[Sequence[ImageRequest]], Sequence[np.ndarray] | np.ndarray]:
    """Return the `sample` of a `Batcher`."""

    def sample(requests: Sequence[ImageRequest]) -> Sequence[np.ndarray] | np.ndarray:
        sampler = SamplerConfig.model_validate_json(requests[0].sampler)
        if masked := requests[0].masked:
            given = (model, masked.image, masked.mask)
            return [inpaint(*given, each.prompt, each.seed, sampler).pasted for each in requests]
        prompts, seeds = [request.prompt for request in requests], [request.seed for request in requests]
        return model.sample(prompts, seeds, sampler=sampler, grid=requests[0].grid).images

    return sample


def create_app(model: TextToImage, batcher: Batcher, name: str, key: str = "", hosts: Sequence[str] = ()) -> FastAPI:
    """Return the application.

    Args:
        name: of the model, as `/v1/models` lists it; a request may name it, or none.
        key: that requests below /v1 must bring as bearer token; empty: none.
        hosts: names by which it may be called, so that no web page of another name reaches it; empty: any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="LightGen", lifespan=lifespan, openapi_url=None)
    app.state.max_bodies = {}  # bytes by path, where not MAX_BODY
    app.state.rejected = 0  # requests that nothing can be made of; a full queue's are the batcher's
    started = int(time.time())

    @app.middleware("http")
    async def count_rejected(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Count the requests that are answered with an error of the caller's."""
        response = await guard(request, proceed)
        app.state.rejected += 400 <= response.status_code < 500 and response.status_code != 429
        return response

    async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse strangers and large bodies before a body is read."""
        if key and request.url.path.startswith("/v1/") and not _has_key(request, key):
            return _error(401, "the API key is missing or wrong: send Authorization: Bearer KEY", "invalid_api_key")
        length = request.headers.get("content-length", "0" if request.method == "GET" else "")
        most = app.state.max_bodies.get(request.url.path, MAX_BODY)
        if not length.isdecimal() or int(length) > most:
            return _error(413, f"a request has a Content-Length of at most {most} bytes", "request_too_large")
        return await proceed(request)

    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return _error(error.status, str(error), error.code)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()]
        return _error(400, "; ".join(faults), "invalid_request")

    @app.get("/health")
    async def health() -> Response:
        state = "ending" if batcher.closed else "ok"
        counts = {"status": state, "model": name, "waiting": batcher.waiting, **asdict(batcher.counts)}
        counts["rejected"] = app.state.rejected
        return JSONResponse(counts, 503 if batcher.closed else 200)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": name, "object": "model", "created": started, "owned_by": "lightgen"}
        return {"object": "list", "data": [entry]}

    @app.post("/v1/images/generations")
    async def generate(asked: GenerationRequest) -> dict[str, Any]:
        if asked.model not in (None, name):
            raise RequestError(404, f"there is no model {asked.model!r}; this server has {name!r}", "model_not_found")
        return await answer_images(batcher, model, asked, token_grid(asked.size, model))

    return app


async def answer_images(
    batcher: Batcher,
    model: TextToImage,
    asked: SamplingRequest,
    grid: tuple[int, int],
    masked: Masked | None = None,
) -> dict[str, Any]:
    """Return the answer to a request: PNG images in base64, each with its seed. Raises RequestError."""
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    changes = {"iterations": asked.steps, "guidance_scale": asked.guidance_scale}
    changes = {name: value for name, value in changes.items() if value is not None}
    sampler = model.sampler.model_copy(update=changes).model_dump_json()
    requests = [ImageRequest(asked.prompt, seed + number, sampler, grid, masked) for number in range(asked.n)]
    images = await _sample(batcher, requests)
    encoded = [base64.b64encode(await asyncio.to_thread(encode_png, image)).decode() for image in images]
    data = [{"b64_json": image, "seed": seed + number} for number, image in enumerate(encoded)]
    return {"created": int(time.time()), "output_format": "png", "data": data}


async def _sample(batcher: Batcher, requests: list[ImageRequest]) -> list[np.ndarray]:
    """Return images; if the client leaves, those that wait are dropped."""
    try:
        futures = batcher.submit(requests)
    except QueueFull as error:
        raise RequestError(429, f"{error}; ask again later", "rate_limit_exceeded") from error
    except Closed as error:
        raise RequestError(503, str(error), "server_ending") from error
    try:
        return await asyncio.gather(*map(asyncio.wrap_future, futures))
    except asyncio.CancelledError:
        raise
    except Exception as error:
        raise RequestError(500, f"the image failed: {type(error).__name__}; see the server's log", "failed") from error


def token_grid(size: str | None, model: TextToImage) -> tuple[int, int]:
    """Return rows and columns of tokens of a size. Raises RequestError."""
    rows, columns = model.info.grid
    if size in (None, "auto"):
        return rows, columns
    side = model.codec.stride * model.info.patch
    width, height = map(int, str(size).split("x"))
    if width % side or height % side or width * height > MAX_AREA * rows * columns * side**2:
        raise RequestError(
            400,
            f"size {size}: give multiples of {side} px, and at most {MAX_AREA} times the area of "
            f"{columns * side}x{rows * side}, for which the student was trained",
            "invalid_size",
        )
    return height // side, width // side


def _has_key(request: Request, key: str) -> bool:
    sent = request.headers.get("authorization", "").encode("latin-1")  # the bytes that came
    return hmac.compare_digest(sent, f"Bearer {key}".encode())


def _error(status: int, message: str, code: str) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    headers = {"Retry-After": str(RETRY_SECONDS[status])} if status in RETRY_SECONDS else {}
    return JSONResponse(body, status, headers)
