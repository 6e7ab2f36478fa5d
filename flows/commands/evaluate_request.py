"""The images that an evaluation asks of a source, and the answer."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lightgen_core.rejected import Rejected


class Request(NamedTuple):
    """One image that is wanted. prompt: index of its prompt; number: index among the prompt's images."""

    prompt: int
    number: int
    caption: str
    seed: int


Generate = Callable[[Sequence[Request]], Iterable[np.ndarray | Rejected]]
"""Requests to images uint8 (height, width, 3) in order, or the reason for having none."""
