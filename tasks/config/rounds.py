"""Rounds of preference tuning: the stages `pairs` and `dpo` again, with draws of their own."""

from typing import NamedTuple

from lightgen_core.seeds import derive_seed
from tasks.config.recipe import Recipe


class Round(NamedTuple):
    """One round of `pairs` and `dpo`, or pre-training before them.

    Attributes:
        recipe: the recipe of both stages. It does not hold the number of rounds: more of them leave earlier ones alone.
        suffix: end of both artifacts' labels; none for the first, then "-2", "-3"; of the control "-sft", "-sft-2".
    """

    recipe: Recipe
    suffix: str


def pretraining(recipe: Recipe) -> Round:
    """Return pre-training as a round: with the seed of training, and no suffix."""
    return Round(recipe.training, "")


def tuning_rounds(recipe: Recipe) -> tuple[Round, ...]:
    """Return the rounds of the student that a recipe asks for."""
    return _rounds(recipe, recipe.dpo.objective, "")


def control_rounds(recipe: Recipe) -> tuple[Round, ...]:
    """Return the rounds of the control, which learns from winners alone; none where none is asked for."""
    return () if recipe.dpo.control == "none" else _rounds(recipe, recipe.dpo.control, f"-{recipe.dpo.control}")


def _rounds(recipe: Recipe, objective: str, suffix: str) -> tuple[Round, ...]:
    """Return rounds of an objective; one that is the control's, too, has the control's learning rate."""
    optimizer, rate = recipe.dpo.optimizer, recipe.dpo.control_learning_rate
    if rate is not None and objective == recipe.dpo.control:
        optimizer = optimizer.model_copy(update={"learning_rate": rate})
    one = {"rounds": 1, "control": "none", "control_learning_rate": None}
    dpo = recipe.dpo.model_copy(update={**one, "objective": objective, "optimizer": optimizer})
    training = recipe.training
    return tuple(
        Round(
            training.model_copy(update={"dpo": dpo, "seed": _seed(training.seed, number)}),
            suffix if number == 1 else f"{suffix}-{number}",
        )
        for number in range(1, recipe.dpo.rounds + 1)
    )


def _seed(seed: int, number: int) -> int:
    """Return a round's seed; the first has the recipe's, so that one round is the paper's method to the byte."""
    return seed if number == 1 else derive_seed(seed, "round", number) % 2**31
