"""Zero-shot inpainting (paper Sec. 4.4): tokens outside a mask stay and condition those that are sampled anew."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from lightgen_core.config import SamplerConfig
from lightgen_core.model.patchify import patchify, unpatchify
from lightgen_core.sampling.text_to_image import TextToImage
from lightgen_core.sampling.unmask import sample


class InpaintError(ValueError):
    """An image and mask that leave nothing to keep or to sample, or that are not made of whole tokens."""


@dataclass(frozen=True)
class Inpainted:
    """An image with newly sampled parts.

    tokens (1, h*w, token width): the given image's, bit for bit, where `renewed` (h, w) is false; decoded (height,
    width, 3) uint8: the tokens through the autoencoder; pasted: the same, with the image's own pixels at kept tokens.
    """

    tokens: Tensor
    renewed: np.ndarray
    decoded: np.ndarray
    pasted: np.ndarray


def renewed_tokens(mask: Bool[np.ndarray, "height width"], side: int) -> Bool[np.ndarray, "rows columns"]:
    """Return the tokens of `side` x `side` pixels with any pixel in the mask."""
    height, width = mask.shape
    squares = mask.reshape(height // side, side, width // side, side)
    return np.logical_or.reduce(squares, axis=(1, 3))


def inpaint(
    student: TextToImage,
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "mask_height mask_width"],
    caption: str,
    seed: int,
    sampler: SamplerConfig | None = None,
) -> Inpainted:
    """Sample the tokens of an image that a mask touches, for a caption.

    Raises:
        InpaintError: sizes that differ or are not whole tokens, a mask that touches no token or every one.
    """
    patch, side = student.info.patch, student.codec.stride * student.info.patch
    renewed = require_mask(image, mask, side)
    known = patchify(torch.from_numpy(student.codec.encode(image[None])), patch)
    text, text_mask = student.encode_text([caption])
    sampler = sampler or student.sampler
    tokens = sample(  # without what the student has recorded: each number of tokens to sample has its own iterations
        student.sampled(sampler),
        text,
        text_mask,
        renewed.shape,
        sampler,
        seeds=[seed],
        known=known,
        keep=torch.from_numpy(~renewed).flatten(),
    ).cpu()
    decoded = student.codec.decode(unpatchify(tokens, renewed.shape, student.info.channels, patch).float())[0]
    new = renewed.repeat(side, axis=0).repeat(side, axis=1)
    return Inpainted(tokens, renewed, decoded, np.where(new[..., None], decoded, image))


def require_mask(
    image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "mask_height mask_width"], side: int
) -> Bool[np.ndarray, "rows columns"]:
    """Return the tokens to sample. Raises InpaintError as `inpaint` does."""
    _check(image, mask, side)
    renewed = renewed_tokens(mask, side)
    if renewed.all() or not renewed.any():
        raise InpaintError(
            f"the mask touches {renewed.sum()} of {renewed.size} tokens of {side} x {side} px: "
            + ("nothing would be kept; sample an image instead" if renewed.all() else "there is nothing to sample")
            + ". White is where new pixels are wanted"
        )
    return renewed


def _check(image: np.ndarray, mask: np.ndarray, side: int) -> None:
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        raise InpaintError(
            f"the image has {width} x {height} px and the mask {mask.shape[1]} x {mask.shape[0]}: give a mask of the "
            "image's size"
        )
    if height % side or width % side:
        near = [max(1, round(length / side)) * side for length in (width, height)]
        raise InpaintError(
            f"an image of {width} x {height} px is not made of whole tokens of {side} x {side} px: resize it and the "
            f"mask to multiples of {side}, for example {near[0]} x {near[1]}"
        )
