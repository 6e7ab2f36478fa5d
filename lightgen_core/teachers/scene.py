"""The embedded teacher: reads a caption of the scene world and renders it exactly."""

from collections.abc import Sequence

import numpy as np

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import parse
from lightgen_core.scene.render import render


class SceneTeacher:
    """Reads a caption of the scene world and renders it exactly.

    Raises (from `draw`):
        CaptionError: the prompt is not of the scene grammar.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """Return uint8 pictures (size, size, 3)."""
        return [
            render(parse(prompt), self.world, np.random.default_rng(seed))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
