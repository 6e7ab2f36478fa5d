"""A page to try a student in: prompts, seeds, and a brush for what is to be sampled anew, inside or around an image."""

import asyncio
import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from pydantic import Field

from lightgen_core.images.safe_decoder import SafeImageDecoder
from lightgen_core.rejected import Rejected
from lightgen_core.sampling.inpaint import InpaintError, require_mask
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.serving.app import (
    MAX_AREA,
    MAX_BODY,
    MAX_IMAGES,
    RequestError,
    SamplingRequest,
    answer_images,
)
from lightgen_core.serving.batcher import Batcher, Masked

PAGE = Path(__file__).parent / "page"
MASK_THRESHOLD = 128
"""Lowest grey value of a mask's pixel that counts as white."""
PNG_BYTES = 5
"""Of a pixel, at most: RGBA and what a PNG adds."""
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"


class InpaintRequest(SamplingRequest):
    """Body of a request to sample a part of an image anew; both images as PNG in base64."""

    image: str = Field(min_length=1)
    mask: str = Field(min_length=1, description="of the image's size; white where new pixels are wanted")


def add_gallery(app: FastAPI, model: TextToImage, batcher: Batcher, name: str, key: bool) -> None:
    """Add the page and `POST /v1/inpaint` to an application of `create_app`.

    Args:
        name: of the model, as the page shows it.
        key: whether requests must bring one; the page then asks for it.
    """
    rows, columns = model.info.grid
    side = model.codec.stride * model.info.patch
    max_pixels = MAX_AREA * rows * columns * side**2
    app.state.max_bodies["/v1/inpaint"] = MAX_BODY + 2 * max_pixels * PNG_BYTES * 4 // 3  # base64: 4 letters of 3 bytes
    decoder = SafeImageDecoder(max_pixels)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "gallery.html", headers={"Content-Security-Policy": POLICY})

    for file in ("gallery.css", "gallery.js", "canvas.js"):
        app.get(f"/{file}", include_in_schema=False)(lambda path=PAGE / file: FileResponse(path))

    @app.get("/student")
    async def student() -> dict[str, Any]:
        default = model.sampler
        return {
            "name": name,
            "side": side,
            "width": columns * side,
            "height": rows * side,
            "max_pixels": max_pixels,
            "max_images": MAX_IMAGES,
            "steps": default.iterations,
            "guidance_scale": default.guidance_scale,
            "key": key,
        }

    @app.post("/v1/inpaint")
    async def inpaint(asked: InpaintRequest) -> dict[str, Any]:
        image = await asyncio.to_thread(_decode, "image", asked.image, decoder)
        mask = (await asyncio.to_thread(_decode, "mask", asked.mask, decoder)).max(axis=2) >= MASK_THRESHOLD
        try:
            renewed = require_mask(image, mask, side)
        except InpaintError as error:
            raise RequestError(400, str(error), "invalid_mask") from error
        shape = (renewed.shape[0], renewed.shape[1])
        return await answer_images(batcher, model, asked, shape, Masked(image, mask))


def _decode(field: str, data: str, decoder: SafeImageDecoder) -> np.ndarray:
    """Return an image uint8 (height, width, 3). Raises RequestError."""
    try:
        return np.array(decoder.decode(base64.b64decode(data, validate=True)))
    except binascii.Error as error:
        raise RequestError(400, f"{field}: found no base64 ({error}); expected a PNG in it", "invalid_image") from error
    except Rejected as error:
        raise RequestError(400, f"{field}: {error}", "invalid_image") from error
