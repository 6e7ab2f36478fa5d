"""An ablation: a recipe, and the grid of its variants that are compared."""

import json
from typing import Literal

from pydantic import Field, model_validator

from lightgen_core.config import Positive, Section
from tasks.config.recipe import Recipe


class GridPoint(Section):
    """One variant of the recipe."""

    values: tuple[str, ...] = Field(description="its value on each axis, as JSON")
    student: Literal["pretrain", "dpo"] = Field("pretrain", description="which of its students is scored")

    @property
    def labels(self) -> tuple[str | int | float | bool, ...]:
        """Its values as they are shown: numbers and words as such, anything else as JSON."""
        read = [(text, json.loads(text)) for text in self.values]
        return tuple(value if isinstance(value, str | int | float) else text for text, value in read)


class Grid(Section):
    """Axes and points; every point is trained from the same seeds."""

    axes: tuple[str, ...] = Field(min_length=1, max_length=2, description="one axis, or two")
    points: tuple[GridPoint, ...] = Field(min_length=1, description="variants of the recipe")
    seeds: Positive = Field(description="trainings of each point")

    @model_validator(mode="after")
    def _points_have_all_axes(self) -> "Grid":
        if wrong := [point.values for point in self.points if len(point.values) != len(self.axes)]:
            raise ValueError(f"a point has values {wrong[0]}; expected one for each of {', '.join(self.axes)}")
        return self


class AblatedRecipe(Recipe):
    """The recipe of an ablation's artifact: the one that the points vary, and the grid."""

    grid: Grid
