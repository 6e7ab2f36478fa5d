"""The embedded teacher: a renderer of scene captions."""

from collections.abc import Sequence

import numpy as np

from lightgen_core.scene.config import World
from lightgen_core.scene.grammar import parse
from lightgen_core.scene.render import render


class SceneTeacher:
    """Parse captions of the scene world and render them exactly."""

    def __init__(self, world: World) -> None:
        self.world = world

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """Return uint8 images (size, size, 3); CaptionError for a prompt outside the scene grammar."""
        return [
            render(parse(prompt), self.world, np.random.default_rng(seed))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
