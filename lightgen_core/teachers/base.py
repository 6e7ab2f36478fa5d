"""The interface of teachers that generate images from prompts."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from lightgen_core.rejected import Rejected


class TeacherError(Exception):
    """The teacher is no text-to-image model, or does not know an argument."""


class Teacher(Protocol):
    """A generator of one image per prompt, which depends on prompt and seed only."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterable[np.ndarray | Rejected]:
        """Return a uint8 image (height, width, 3) or an error per prompt, in order."""
