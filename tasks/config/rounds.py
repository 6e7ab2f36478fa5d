"""Rounds of preference tuning: the stages `pairs` and `dpo` again, with draws of their own."""

from typing import Any, NamedTuple

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
    return _rounds(without_control(recipe), "")


def control_rounds(recipe: Recipe) -> tuple[Round, ...]:
    """Return the rounds of the control, which learns from winners alone; none where none is asked for."""
    if (control := recipe.dpo.control) == "none":
        return ()
    dpo = recipe.dpo.model_copy(update={"objective": control})
    return _rounds(without_control(recipe.model_copy(update={"dpo": dpo})), f"-{control}")


def without_control(recipe: Recipe) -> Recipe:
    """Return a recipe with its objective alone; one that is the control's has the control's learning rate."""
    dpo = recipe.dpo
    alone: dict[str, Any] = {"control": "none", "control_learning_rate": None}
    if dpo.objective == dpo.control and dpo.control_learning_rate is not None:
        alone["optimizer"] = dpo.optimizer.model_copy(update={"learning_rate": dpo.control_learning_rate})
    return recipe.model_copy(update={"dpo": dpo.model_copy(update=alone)})


def _rounds(recipe: Recipe, suffix: str) -> tuple[Round, ...]:
    dpo, training = recipe.dpo.model_copy(update={"rounds": 1}), recipe.training
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
