"""Teachers: what draws the pictures that the student learns from."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lightgen_core.config import World
from lightgen_core.scene.grammar import parse
from lightgen_core.scene.render import render


class Teacher(Protocol):
    """Draws one picture for each prompt; a picture depends on its own prompt and seed only."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Return uint8 pictures (n, height, width, 3)."""
        ...


class SceneTeacher:
    """Reads a caption of the scene world and renders it exactly.

    Raises (from `draw`):
        CaptionError: the prompt is not of the scene grammar.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Return uint8 pictures (n, size, size, 3)."""
        pictures = [
            render(parse(prompt), self.world, np.random.default_rng(seed))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return np.stack(pictures)
