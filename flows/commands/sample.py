"""`lightgen sample`: generate images of prompts with a student."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAMLError

from flows.checkpoint import find_student
from flows.commands.options import drop_unset
from flows.did_you_mean import did_you_mean
from flows.errors import UserError
from flows.folders import require_student, require_writable
from flows.load import parse_yaml
from flows.student import Student, require_prompts
from flows.terminal import stage_bar
from lightgen_core.config import SamplerConfig


def sample_to_files(
    checkpoint: str | Path,
    prompts: tuple[str, ...],
    output: Path | None,
    seed: int,
    num_images: int,
    steps: int | None,
    cfg: float | None,
    height: int | None,
    width: int | None,
    overrides: tuple[str, ...] = (),
    rewrite: str | None = None,
    store_uri: str | None = None,
) -> list[Path]:
    """Sample `num_images` images of each prompt into a folder.

    Image k of a prompt depends on seed + k alone. rewrite: the model that writes the prompts out first.

    Raises:
        UserError: no student in the folder, an empty prompt, a size that is no multiple of a token's, an invalid
            sampler, or an output folder that cannot be written.
    """
    output = output or Path()
    require_prompts(prompts)
    changes = drop_unset(iterations=steps, guidance_scale=cfg) | read_overrides(overrides)
    folder = find_student(checkpoint, store_uri).folder
    require_student(folder)
    require_writable(output)
    with stage_bar("student"):  # seconds of imports
        from lightgen_core.images.codec import encode_png

        student = Student.from_pretrained(folder)
        images = student.sample(_written_out(prompts, rewrite, seed), seed, num_images, changes, height, width)
    captions = [prompt for prompt in prompts for _ in range(num_images)]
    paths = []
    for number, (caption, image) in enumerate(zip(captions, images, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60]
        paths.append(output / f"{number:03d}-{slug}.png")
        paths[-1].write_bytes(encode_png(image))
    return paths


def _written_out(prompts: tuple[str, ...], rewrite: str | None, seed: int) -> tuple[str, ...]:
    if rewrite is None:
        return prompts
    from flows.commands.rewriting import rewrite as write_out

    return tuple(write_out(prompts, rewrite, seed))


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
