"""`lightgen inpaint`: resample the masked part of an image."""

from pathlib import Path

from PIL import Image, ImageOps

from flows.checkpoint import find_student
from flows.errors import UserError
from flows.folders import require_student, require_writable
from flows.student import Student
from flows.terminal import stage_bar


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
    store_uri: str | None = None,
) -> Path:
    """Resample the masked part of an image; return the file written.

    keep_pixels: outside the masked tokens keep the image's own pixels, else those the autoencoder reconstructs.

    Raises:
        UserError: no student, no image, an image and mask that do not fit, or a folder that cannot be written.
    """
    target = output or Path(f"{image.stem}-inpainted.png")
    if target.suffix.lower() != ".png":
        raise UserError(f"{target} does not end in .png: the result is a PNG, so that kept pixels stay as they are")
    opened, white = _open(image), _open(mask)
    folder = find_student(checkpoint, store_uri).folder
    require_student(folder)
    require_writable(target.parent)
    with stage_bar("student"):
        student = Student.from_pretrained(folder)
        inpainted = student.inpaint(opened, white, prompt, seed=seed, steps=steps, cfg=cfg, decode_all=not keep_pixels)
    inpainted.save(target)
    return target


def _open(path: Path) -> Image.Image:
    """Open an image, rotated as its EXIF orientation requires."""
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened)
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from error
