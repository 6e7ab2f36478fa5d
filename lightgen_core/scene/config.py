"""The scene world's settings: a recipe's section `world`."""

from typing import Literal

from pydantic import Field, model_validator

from lightgen_core.config import Fraction, Section
from lightgen_core.scene.vocabulary import CLEARANCE, COLORS, MIN_RADIUS, SHAPES


class World(Section):
    """Vocabulary and rendering of the scene world; they set its difficulty."""

    image_size: int = Field(48, ge=32, le=256, multiple_of=8, description="image height and width, px")
    layout: Literal["composed", "grid", "free"] = Field(
        "composed", description="composed: as a photographer would; grid: any cells; free: anywhere, without overlap"
    )
    grid: int = Field(3, ge=3, le=5, description="cells along one side of the image")
    colors: tuple[str, ...] = Field(("red", "green", "blue", "yellow", "purple", "orange"), description="colour words")
    shapes: tuple[str, ...] = Field(("circle", "square", "triangle", "star", "cross"), description="shape words")
    max_count: int = Field(4, ge=2, le=4, description="largest number a counting caption asks for, objects")
    radius: tuple[float, float] = Field((0.41, 0.45), description="smallest and largest object radius, share of a cell")
    jitter: float = Field(0.04, ge=0, le=0.2, description="largest shift of an object from its place, share of a cell")
    background: tuple[float, float] = Field((0.75, 1.0), description="darkest and lightest background grey, 0 to 1")
    held_out: Fraction = Field(0.2, description="share of each category's meanings kept for evaluation only")

    @model_validator(mode="after")
    def _words_are_known(self) -> "World":
        for field, words, known, least in (("colors", self.colors, COLORS, 2), ("shapes", self.shapes, SHAPES, 3)):
            if unknown := [word for word in words if word not in known]:
                raise ValueError(f"{field}: found {', '.join(unknown)}; expected some of {', '.join(known)}")
            if len(set(words)) < max(least, len(words)):
                raise ValueError(f"{field}: found {', '.join(words)}; expected at least {least} words, each once")
        return self

    @model_validator(mode="after")
    def _objects_can_be_told_apart(self) -> "World":
        (small, large), (dark, light) = self.radius, self.background
        if not 0.25 <= small <= large <= 0.5:
            raise ValueError(f"radius: found {small}, {large}; expected smallest, largest within 0.25 to 0.5 of a cell")
        if not 0.5 <= dark <= light <= 1:
            raise ValueError(f"background: found {dark}, {light}; expected darkest, lightest within 0.5 to 1")
        cell = self.image_size / self.grid
        if (found := min(small * cell, cell / 2 - CLEARANCE)) < MIN_RADIUS:
            raise ValueError(
                f"the smallest object has a radius of {found:.2f} px (image_size {self.image_size}, grid {self.grid}, "
                f"radius {small}); shapes can be told apart from {MIN_RADIUS} px: take a larger image_size or radius, "
                "or a coarser grid"
            )
        return self
