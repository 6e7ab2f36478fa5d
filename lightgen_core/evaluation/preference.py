"""Preference pairs: scores of one caption's images, and the choice of two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from lightgen_core.evaluation.scene import judge_scenes

if TYPE_CHECKING:
    import torch

    from lightgen_core.encoders.clip import Clip

Kind = Literal["teacher", "best_worst", "both"]
Image = UInt8[np.ndarray, "height width 3"]
Scores = Float[np.ndarray, " pictures"]


class Scorer(Protocol):
    """Scorer of images against captions; differences below `margin` count as ties."""

    @property
    def margin(self) -> float: ...

    def score_student(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        """Return the scores of images that the student drew."""
        ...

    def score_teacher(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        """Return the scores of images that the teacher drew."""
        ...


class TeacherWinsScorer:
    """Scorer that always prefers the teacher's image (paper, Sec. 3.4)."""

    margin = 1.0

    def score_student(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        return np.zeros(len(captions))

    def score_teacher(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        return np.ones(len(captions))


class DetectorScorer:
    """Scorer by the scene detector: 1 if an image shows exactly its caption.

    The teacher's image always does.

    Raises (from `score_student`):
        CaptionError: a caption is not of the scene grammar.
    """

    margin = 1.0

    def score_student(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        return judge_scenes(images, captions).astype(float)

    def score_teacher(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        return np.ones(len(captions))


@dataclass(frozen=True)
class ClipScorer:
    """Scorer by the CLIP cosine of image and caption, the teacher's included."""

    clip: "Clip"
    margin: float

    def score_student(self, images: Sequence[Image], captions: Sequence[str]) -> Scores:
        return self.clip.scores(images, list(captions))

    score_teacher = score_student


def load_scorer(name: Literal["detector", "clip", "none"], margin: float, model: str, device: "torch.device") -> Scorer:
    """Return a scorer by name; `margin`, `model` and `device` are those of "clip"."""
    if name == "none":
        return TeacherWinsScorer()
    if name == "detector":
        return DetectorScorer()
    from lightgen_core.encoders.clip import Clip

    return ClipScorer(Clip.load(model, device=device), margin)


def choose_pair(
    samples: Float[np.ndarray, " samples"], teacher: float, kind: Kind, margin: float
) -> tuple[int | None, int] | None:
    """Return the winner and the loser among a caption's samples; a winner of None is the teacher's image.

    The loser is the sample with the lowest score, the first of several. The winner has at least `margin` more.

    Args:
        samples: scores of the student's samples.
        teacher: score of the teacher's image.
        kind: the winner is the "teacher"; the student's best sample ("best_worst"); or the latter where there is one
            that much better, and the teacher else ("both").
        margin: positive, or two equal images would be a pair.

    Returns None where the winner that was asked for is not that much better.
    """
    loser, best = int(np.argmin(samples)), int(np.argmax(samples))
    if kind != "teacher" and samples[best] - samples[loser] >= margin:
        return best, loser
    if kind != "best_worst" and teacher - samples[loser] >= margin:
        return None, loser
    return None
