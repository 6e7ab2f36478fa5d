"""`lightgen estimate --teachers`: a recipe's images by each known teacher. Loads no torch."""

from typing import Any

from flows.commands.estimate import Rates
from flows.commands.teacher_work import image_work
from flows.known_teachers import KNOWN_TEACHERS, known_teacher
from flows.sizes import check_sizes, image_size
from lightgen_core.teachers.config import DiffusersConfig
from tasks.config.recipe import Recipe


def estimate_teachers(recipe: Recipe, rates: Rates, text_tokens: int | None = None) -> dict[str, Any]:
    """Estimate the recipe's images by each known teacher as its authors run it; arguments and errors as `estimate`."""
    check_sizes(recipe)
    text_tokens = min(text_tokens or recipe.tokens.max_text_tokens, recipe.tokens.max_text_tokens)
    rows = _rows(recipe, text_tokens)
    for row in rows:
        row["device_hours"] = row["flops"] / (rates.tflops * 1e12 * rates.mfu) / 3600
        row["money"] = None if rates.price is None else row["device_hours"] * rates.price
    height, width = image_size(recipe)
    return {
        "recipe": recipe.name,
        "images": recipe.synthesis.count,
        "height": height,
        "width": width,
        "words_per_caption": text_tokens,
        "teachers": rows,
        "assumed": {"tflops": rates.tflops, "mfu": rates.mfu, "price": rates.price},
    }


def _rows(recipe: Recipe, text_tokens: int) -> list[dict[str, Any]]:
    """Return a row for each known teacher: the recipe's images at the recipe's size, with the teacher's own steps.

    A teacher that the recipe names is as the recipe has it; the others take its longest text.
    """
    named = {config.model: config for each in recipe.synthesis.each if (config := each.diffusers) and config.steps}
    lengths = [config.max_sequence_length for config in named.values() if config.max_sequence_length]
    rows = []
    for name, teacher in KNOWN_TEACHERS.items():
        own = next((config for model, config in named.items() if known_teacher(model) is teacher), None)
        config = own or DiffusersConfig(
            model=name,
            steps=teacher.steps,
            guidance_scale=teacher.guidance_scale,
            negative_prompt=teacher.negative_prompt,
            max_sequence_length=max(lengths, default=None),
        )
        work = image_work(config, image_size(recipe), text_tokens)
        total = recipe.synthesis.count * work["flops_per_image"]
        facts = {"teacher": name, "parameters": teacher.parameters, "of_the_recipe": own is not None}
        rows.append(facts | work | {"flops": total, "padded": teacher.pads, "source": teacher.source})
    return rows
