"""FLOPs of a recipe's images by diffusion teachers, for the estimate. Loads no torch."""

from typing import Any

from flows.known_teachers import known_teacher
from flows.sizes import image_size
from lightgen_core.teachers.config import DiffusersConfig
from tasks.config.recipe import Recipe
from tasks.config.sources import TeacherSource


def teacher_flops(recipe: Recipe, text_tokens: int) -> tuple[float | None, str]:
    """Return the FLOPs of all images (None if unknown) and a note; several teachers have their shares of the images.

    text_tokens: of a caption, for teachers that do not pad.
    """
    teachers, images = recipe.synthesis.teachers, recipe.synthesis.count
    if not teachers:
        return _images_flops(recipe, recipe.synthesis, images, text_tokens)
    total = sum(each.weight for each in teachers)
    parts = {each.name: _images_flops(recipe, each, images * each.weight / total, text_tokens) for each in teachers}
    notes = "; ".join(f"{name}: {note}" for name, (_, note) in parts.items())
    flops = [count for count, _ in parts.values()]
    return None if None in flops else sum(count for count in flops if count is not None), notes


def _images_flops(recipe: Recipe, source: TeacherSource, images: float, text_tokens: int) -> tuple[float | None, str]:
    config = source.diffusers
    if source.teacher == "scene":
        return 0.0, "drawn on the CPU"
    if source.teacher != "diffusers" or config is None:
        return 0.0, "nothing is drawn here; the images' size is a guess where the recipe does not say it"
    if known_teacher(config.model) is None or config.steps is None:
        return None, "the teacher's FLOPs are not known; give --throughput synthesis=IMAGES_PER_SECOND"
    work = image_work(config, image_size(recipe), text_tokens)
    cache = "; its step cache would skip some of it" if config.step_cache else ""
    note = (
        f"{work['image_tokens']:,} image and {work['text_tokens']:,} text tokens, {work['steps']} steps x "
        f"{work['passes']}, text encoder and decoder once{cache}"
    )
    return images * work["flops_per_image"], note


def image_work(config: DiffusersConfig, size: tuple[int, int], text_tokens: int) -> dict[str, Any]:
    """Return tokens, steps, passes and FLOPs of an image by a known teacher with its steps set."""
    teacher = known_teacher(config.model)
    assert teacher is not None and config.steps is not None
    image, text = teacher.image_tokens(*size), teacher.text_tokens(text_tokens, config.max_sequence_length)
    passes = teacher.passes(config)
    denoiser = config.steps * passes * teacher.flops.count(image, text)
    once = 2 * passes * teacher.text_encoder * text + teacher.decoder * size[0] * size[1]
    return {
        "image_tokens": image,
        "text_tokens": text,
        "steps": config.steps,
        "passes": passes,
        "denoiser_flops": denoiser,
        "flops_per_image": denoiser + once,
    }
