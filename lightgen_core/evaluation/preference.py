"""What to prefer over what: how pictures of one caption are compared, and which two of them make a pair."""

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
Picture = UInt8[np.ndarray, "height width 3"]
Scores = Float[np.ndarray, " pictures"]


class Scorer(Protocol):
    """Says how well pictures show their captions. Scores that differ by less than `margin` are as good as equal."""

    @property
    def margin(self) -> float: ...

    def samples(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        """Return the scores of pictures that the student drew."""
        ...

    def teachers(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        """Return the scores of pictures that the teacher drew."""
        ...


class PaperScorer:
    """Looks at no picture: the teacher's is better than the student's (paper, Sec. 3.4)."""

    margin = 1.0

    def samples(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        return np.zeros(len(captions))

    def teachers(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        return np.ones(len(captions))


class DetectorScorer:
    """The scene world's detector: 1 where a picture shows exactly what its caption says, as the teacher's always does.

    Raises (from `samples`):
        CaptionError: a caption is not of the scene grammar.
    """

    margin = 1.0

    def samples(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        return judge_scenes(pictures, captions).astype(float)

    def teachers(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        return np.ones(len(captions))


@dataclass(frozen=True)
class ClipScorer:
    """The cosine of picture and caption, for captions of any kind; the teacher's picture has to earn its place too."""

    clip: "Clip"
    margin: float

    def samples(self, pictures: Sequence[Picture], captions: Sequence[str]) -> Scores:
        return self.clip.scores(pictures, list(captions))

    teachers = samples


def load_scorer(name: Literal["detector", "clip", "none"], margin: float, model: str, device: "torch.device") -> Scorer:
    """Return a scorer by name; `margin`, `model` and `device` are those of "clip"."""
    if name == "none":
        return PaperScorer()
    if name == "detector":
        return DetectorScorer()
    from lightgen_core.encoders.clip import Clip

    return ClipScorer(Clip.load(model, device=device), margin)


def choose_pair(
    samples: Float[np.ndarray, " samples"], teacher: float, kind: Kind, margin: float
) -> tuple[int | None, int] | None:
    """Return the winner and the loser among a caption's samples; a winner of None is the teacher's picture.

    The loser is the sample with the lowest score, the first of several. The winner has at least `margin` more.

    Args:
        samples: scores of the student's samples.
        teacher: score of the teacher's picture.
        kind: the winner is the "teacher"; the student's best sample ("best_worst"); or the latter where there is one
            that much better, and the teacher else ("both").
        margin: positive, or two equal pictures would be a pair.

    Returns None where the winner that was asked for is not that much better.
    """
    loser, best = int(np.argmin(samples)), int(np.argmax(samples))
    if kind != "teacher" and samples[best] - samples[loser] >= margin:
        return best, loser
    if kind != "best_worst" and teacher - samples[loser] >= margin:
        return None, loser
    return None
