"""`lightgen sample`: generate images of prompts with a student."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ruamel.yaml import YAMLError

from flows.commands.folders import require_student, require_writable
from flows.commands.options import drop_unset
from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from flows.load import parse_yaml
from lightgen_core.config import SamplerConfig
from tasks.config.settings import Settings

if TYPE_CHECKING:
    from lightgen_core.sampling.text_to_image import TextToImage


def sample_to_files(
    checkpoint: Path,
    prompts: tuple[str, ...],
    output: Path | None,
    seed: int,
    num_images: int,
    steps: int | None,
    cfg: float | None,
    height: int | None,
    width: int | None,
    overrides: tuple[str, ...] = (),
) -> list[Path]:
    """Sample `num_images` images of each prompt into a folder.

    Image k of a prompt depends on seed + k alone.

    Raises:
        UserError: no student in the folder, an empty prompt, a size that is no multiple of a token's, an invalid
            sampler, or an output folder that cannot be written.
    """
    output = output or Path()
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty: say what to draw")
    changes = drop_unset(iterations=steps, guidance_scale=cfg) | read_overrides(overrides)
    require_student(checkpoint)
    require_writable(output)
    from lightgen_core.device import pick_device
    from lightgen_core.images.codec import encode_png
    from lightgen_core.model.save import StudentError
    from lightgen_core.sampling.head_samplers import IncompatibleSamplerError
    from lightgen_core.sampling.text_to_image import TextToImage
    from lightgen_core.sampling.token_sampler import HeadCompileConfig

    settings = Settings()
    head_compile = HeadCompileConfig(settings.compile_head, settings.cuda_graphs)
    captions = [prompt for prompt in prompts for _ in range(num_images)]
    seeds = [seed + k for _ in prompts for k in range(num_images)]
    try:
        device = pick_device(settings.device, settings.threads)
        student = TextToImage.load(checkpoint, device, head_compile=head_compile)
        sampler, grid = changed_sampler(student.sampler, changes), _grid(student, height, width)
        images = student.sample(captions, seeds, sampler=sampler, grid=grid).images
    except (StudentError, IncompatibleSamplerError) as error:
        raise UserError(str(error)) from error
    paths = []
    for number, (caption, image) in enumerate(zip(captions, images, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60]
        paths.append(output / f"{number:03d}-{slug}.png")
        paths[-1].write_bytes(encode_png(image))
    return paths


def read_overrides(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Parse `field=value` overrides. Raises UserError for another form, unknown field or invalid YAML."""
    values, fields = {}, SamplerConfig.model_fields
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or name not in fields:
            hint = "" if name in fields else did_you_mean(name, fields)
            raise UserError(f"--set {override!r}: expected FIELD=VALUE with one of {', '.join(fields)}.{hint}")
        try:
            values[name] = parse_yaml(text)
        except YAMLError as error:
            raise UserError(f"--set {override!r}: {text!r} is not a YAML value") from error
    return values


def changed_sampler(sampler: SamplerConfig, changes: Mapping[str, Any]) -> SamplerConfig:
    """Return the sampler with changed fields. Raises UserError if one does not accept its value."""
    try:
        return SamplerConfig.model_validate(sampler.model_dump() | dict(changes))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UserError(f"this sampler is not valid: {faults}") from error


def _grid(student: "TextToImage", height: int | None, width: int | None) -> tuple[int, int]:
    side = student.codec.stride * student.info.patch
    rows, columns = student.info.grid
    height, width = height or rows * side, width or columns * side
    if height % side or width % side:
        raise UserError(
            f"a picture of {height} x {width} px is not made of whole tokens of {side} px: "
            f"give multiples of {side} for height and width"
        )
    return height // side, width // side
