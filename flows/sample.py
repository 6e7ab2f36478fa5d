"""`lightgen sample`: a checkpoint and prompts -> PNG files."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from flows.load import UserError
from lightgen_core.config import SamplerConfig
from tasks.settings import Settings

if TYPE_CHECKING:
    from lightgen_core.text_to_image import TextToImage


def sample_to_files(
    checkpoint: Path,
    prompts: tuple[str, ...],
    output: Path,
    seed: int,
    num_images: int,
    steps: int | None,
    cfg: float | None,
    height: int | None,
    width: int | None,
) -> list[Path]:
    """Sample `num_images` images of each prompt into a folder; the k-th image of a prompt depends on seed + k alone.

    Raises:
        UserError: no student there, or a size that its tokens do not divide.
    """
    from lightgen_core.device import pick_device
    from lightgen_core.pictures import to_png
    from lightgen_core.pretrained import StudentError
    from lightgen_core.text_to_image import TextToImage

    settings = Settings()
    try:
        student = TextToImage.load(checkpoint, pick_device(settings.device, settings.threads))
    except StudentError as error:
        raise UserError(str(error)) from error
    changes = {"iterations": steps, "guidance": cfg}
    sampler = student.sampler.model_copy(update={name: value for name, value in changes.items() if value is not None})
    grid = _grid(student, height, width)
    captions = [prompt for prompt in prompts for _ in range(num_images)]
    seeds = [seed + k for _ in prompts for k in range(num_images)]
    pictures = student.sample(
        captions, seeds, sampler=SamplerConfig.model_validate(sampler.model_dump()), grid=grid
    ).pictures
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / f"{number:03d}-{_slug(caption)}.png" for number, caption in enumerate(captions)]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(to_png(picture))
    return paths


def _grid(student: "TextToImage", height: int | None, width: int | None) -> tuple[int, int]:
    side = student.codec.stride * student.info.patch
    rows, columns = student.info.grid
    wanted = height or rows * side, width or columns * side
    if wanted[0] % side or wanted[1] % side:
        raise UserError(
            f"a picture of {wanted[0]} x {wanted[1]} px is not made of whole tokens of {side} px: "
            f"give multiples of {side} for height and width"
        )
    return wanted[0] // side, wanted[1] // side


def _slug(caption: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60]
