"""The captions a recipe's students are evaluated on: for the stage that does so, and for those that must avoid them."""

from pathlib import Path

from lightgen_core.evaluation.benchmarks import benchmark_prompts
from lightgen_core.evaluation.prompt import Prompt
from lightgen_core.seeds import derive_seed
from tasks.config.recipe import Recipe


def evaluation_prompts(recipe: Recipe) -> list[Prompt]:
    """Return the prompts that `evaluation` draws, category by category.

    Raises:
        PromptFileError: `evaluation.prompts` names a file that is not there, or not of its form.
    """
    return _prompts(recipe, recipe.evaluation.per_category)


def evaluation_captions(recipe: Recipe) -> list[str]:
    """Return what training must never see: the captions of the whole benchmark, however few of them are drawn.

    They follow from `evaluation.benchmark` and `evaluation.prompts` (and, for "scene", from `world`) alone, so another
    number of prompts or images changes no training caption.

    Raises:
        PromptFileError: `evaluation.prompts` names a file that is not there, or not of its form.
    """
    return sorted({prompt.caption for prompt in _prompts(recipe, None)})


def prompt_files(recipe: Recipe) -> tuple[str, ...]:
    """Return the file that `evaluation.prompts` names, once it has been read: its content enters keys.

    Raises:
        PromptFileError: it is not there, or not of its form; better said by a plan than after days of training.
    """
    if recipe.evaluation.prompts is None:
        return ()
    evaluation_prompts(recipe)
    return (recipe.evaluation.prompts,)


def _prompts(recipe: Recipe, per_category: int | None) -> list[Prompt]:
    asked = recipe.evaluation
    return benchmark_prompts(
        asked.benchmark,
        per_category,
        world=recipe.world,
        seed=derive_seed(recipe.seed, "evaluation"),
        file=Path(asked.prompts) if asked.prompts else None,
    )
