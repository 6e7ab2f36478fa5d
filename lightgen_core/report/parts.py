"""Contents of the report's parts on samples, failures, previews, and on what to do with the student."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightgen_core.scene.confusion import ConfusionMatrix

ImageArray = npt.NDArray[np.uint8]
"""(height, width, 3) sRGB."""


@dataclass(frozen=True)
class SeededImage:
    """Image of a caption and a seed, with the judge's verdict and the objects that were found, where there are any."""

    image: ImageArray
    caption: str
    seed: int
    correct: bool | None = None
    found: str = ""


@dataclass(frozen=True)
class SampleGrid:
    """Samples of one student as they come: every `every`-th of all `total`, none chosen by eye."""

    student: str
    every: int
    total: int
    images: tuple[SeededImage, ...]


@dataclass(frozen=True)
class PromptScore:
    """Caption with the share of its images that are right, and the images."""

    category: str
    score: float
    images: tuple[SeededImage, ...]


@dataclass(frozen=True)
class Failures:
    """Captions that a student draws wrong, and what it draws instead.

    Attributes:
        student: one of `STUDENTS`.
        prompts: number of captions.
        wrong: those with a wrong image.
        worst: those of the lowest scores, the lowest first.
        confusions: empty where the judge does not say what it found.
    """

    student: str
    prompts: int
    wrong: int
    worst: tuple[PromptScore, ...]
    confusions: tuple[ConfusionMatrix, ...] = ()


@dataclass(frozen=True)
class PreviewRow:
    """Images of one held-out caption and seed, one for each step."""

    caption: str
    seed: int
    images: tuple[ImageArray, ...]


@dataclass(frozen=True)
class Previews:
    """Held-out captions sampled during pre-training, with the averaged weights of each step."""

    steps: tuple[int, ...]
    rows: tuple[PreviewRow, ...]


@dataclass(frozen=True)
class Unmeasured:
    """Measure that this run does not hold, and the command that would make it, if there is one."""

    name: str
    command: str = ""


@dataclass(frozen=True)
class Usage:
    """Short key of the report in its store, a prompt of the student's world, and the student's size in px."""

    key: str
    prompt: str
    height: int
    width: int
