"""Captions that a recipe's students are evaluated on, and that training must avoid."""

from pathlib import Path

from lightgen_core.evaluation.benchmarks import benchmark_prompts
from lightgen_core.evaluation.prompt import Prompt, PromptFileError
from lightgen_core.images.location import LocationError, local_path
from lightgen_core.seeds import derive_seed
from tasks.config.recipe import Recipe


def evaluation_prompts(recipe: Recipe, *, all_prompts: bool = False) -> list[Prompt]:
    """Return the prompts by category, on request beyond `per_category`. Raises PromptFileError for a bad file."""
    config = recipe.evaluation
    return benchmark_prompts(
        config.benchmark,
        None if all_prompts else config.per_category,
        world=recipe.world,
        seed=derive_seed(recipe.seed, "evaluation"),
        file=_prompt_path(config.prompts) if config.prompts else None,
    )


def _prompt_path(location: str) -> Path:
    try:
        return Path(local_path(location))
    except LocationError as error:
        raise PromptFileError(f"evaluation.prompts: {error}") from error


def evaluation_captions(recipe: Recipe) -> list[str]:
    """Return every caption of the benchmark, used or not: training must never see them.

    They follow from `evaluation.benchmark` and `evaluation.prompts` (and, for "scene", from `world`) alone, so another
    number of prompts or images changes no training caption.

    Raises:
        PromptFileError: `evaluation.prompts` names a file that is not there, or not of its form.
    """
    return sorted({prompt.caption for prompt in evaluation_prompts(recipe, all_prompts=True)})


def evaluation_files(recipe: Recipe) -> tuple[str, ...]:
    """Return the files that evaluation reads: prompts and references. Raises PromptFileError as `prompt_files`."""
    references = recipe.evaluation.references
    return (*prompt_files(recipe), *((references,) if references else ()))


def prompt_files(recipe: Recipe) -> tuple[str, ...]:
    """Return the file that `evaluation.prompts` names. Raises PromptFileError if it is missing or malformed."""
    if recipe.evaluation.prompts is None:
        return ()
    evaluation_prompts(recipe)
    return (recipe.evaluation.prompts,)
