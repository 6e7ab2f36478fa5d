"""What every teacher that draws from prompts can do."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from lightgen_core.rejected import Rejected


class TeacherError(Exception):
    """The teacher cannot draw at all: it is no text-to-image model, or was asked in a way that it does not know."""


class Teacher(Protocol):
    """Draws one picture for each prompt; a picture depends on its own prompt and seed only."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterable[np.ndarray | Rejected]:
        """Give, in order, a uint8 picture (height, width, 3) of each prompt, or why there is none."""
        ...
