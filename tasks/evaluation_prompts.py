"""Captions that a recipe's students are evaluated on, and that training must avoid."""

from pathlib import Path

from lightgen_core.evaluation.benchmarks import benchmark_prompts
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.seeds import derive_seed
from tasks.config.recipe import Recipe


def evaluation_prompts(recipe: Recipe) -> list[Prompt]:
    """Return the prompts of `evaluation`, category by category.

    Raises:
        PromptFileError: `evaluation.prompts` names a file that is not there, or not of its form.
    """
    return _prompts(recipe, recipe.evaluation.per_category)


def evaluation_captions(recipe: Recipe) -> list[str]:
    """Return every caption of the benchmark, used or not: training must never see them.

    They follow from `evaluation.benchmark` and `evaluation.prompts` (and, for "scene", from `world`) alone, so another
    number of prompts or images changes no training caption.

    Raises:
        PromptFileError: `evaluation.prompts` names a file that is not there, or not of its form.
    """
    return sorted({prompt.caption for prompt in _prompts(recipe, None)})


def prompt_files(recipe: Recipe) -> tuple[str, ...]:
    """Return the file that `evaluation.prompts` names, after a check: its content enters keys.

    Raises:
        PromptFileError: it is missing or malformed, which a plan should report before days of training.
    """
    if recipe.evaluation.prompts is None:
        return ()
    evaluation_prompts(recipe)
    return (recipe.evaluation.prompts,)


def _prompts(recipe: Recipe, per_category: int | None) -> list[Prompt]:
    config = recipe.evaluation
    return benchmark_prompts(
        config.benchmark,
        per_category,
        world=recipe.world,
        seed=derive_seed(recipe.seed, "evaluation"),
        file=Path(config.prompts) if config.prompts else None,
    )
