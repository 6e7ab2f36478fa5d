"""`lightgen inpaint`: resample the masked part of an image."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from flows.checkpoint import find_student
from flows.commands.options import drop_unset
from flows.errors import UserError
from flows.folders import require_student, require_writable
from lightgen_core.config import SamplerConfig
from tasks.config.settings import Settings

MASK_THRESHOLD = 128
"""Lowest grey value of a mask's pixel that counts as white."""


def inpaint_to_file(
    checkpoint: Path,
    image: Path,
    mask: Path,
    prompt: str,
    output: Path | None,
    seed: int,
    steps: int | None,
    cfg: float | None,
    keep_pixels: bool,
) -> Path:
    """Resample the masked part of an image; return the file written.

    keep_pixels: outside the masked tokens keep the image's own pixels, else those the autoencoder reconstructs.

    Raises:
        UserError: no student, no image, an image and mask that do not fit, or a folder that cannot be written.
    """
    target = output or Path(f"{image.stem}-inpainted.png")
    if target.suffix.lower() != ".png":
        raise UserError(f"{target} does not end in .png: the result is a PNG, so that kept pixels stay as they are")
    pixels = np.array(_open(image).convert("RGB"))
    masked = np.asarray(_open(mask).convert("L")) >= MASK_THRESHOLD
    checkpoint = find_student(checkpoint).folder
    require_student(checkpoint)
    require_writable(target.parent)
    from lightgen_core.device import pick_device
    from lightgen_core.images.codec import encode_png
    from lightgen_core.model.save import StudentError
    from lightgen_core.sampling.inpaint import InpaintError, inpaint
    from lightgen_core.sampling.text_to_image import TextToImage

    settings = Settings()
    try:
        student = TextToImage.load(checkpoint, pick_device(settings.device, settings.threads))
        changed = student.sampler.model_dump() | drop_unset(iterations=steps, guidance_scale=cfg)
        result = inpaint(student, pixels, masked, prompt, seed, SamplerConfig.model_validate(changed))
    except (StudentError, InpaintError) as error:
        raise UserError(str(error)) from error
    target.write_bytes(encode_png(result.pasted if keep_pixels else result.decoded))
    return target


def _open(path: Path) -> Image.Image:
    """Open an image, rotated as its EXIF orientation requires."""
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened)
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture that can be read: {error}") from error
