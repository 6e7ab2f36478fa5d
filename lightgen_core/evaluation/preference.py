"""Preference pairs: scores of one caption's images, and the choice of winners and losers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, UInt8

from lightgen_core.evaluation.scene import judge_scenes

if TYPE_CHECKING:
    import torch

Kind = Literal["teacher", "best_worst", "both", "ranked"]
Image = UInt8[np.ndarray, "_ _ 3"]
Scores = Float[np.ndarray, " images"]


Score = Callable[[Sequence[Image], Sequence[str]], Scores]
"""Images and their captions to scores."""


@dataclass(frozen=True)
class Scorer:
    """Scores of the student's and of the teacher's images; differences below `margin` count as ties."""

    score_student: Score
    score_teacher: Score
    margin: float = 1.0


def load_scorer(name: Literal["detector", "clip", "none"], margin: float, model: str, device: "torch.device") -> Scorer:
    """Return a scorer by name; `margin`, `model` and `device` are those of "clip", the cosine of image and caption.

    "detector" gives 1 to an image that shows exactly its caption, as the teacher's always does, and raises CaptionError
    for a caption outside the scene grammar. "none" always prefers the teacher's image (paper, Sec. 3.4).
    """
    if name == "clip":
        from lightgen_core.encoders.clip import Clip

        clip = Clip.load(model, device=device)
        return Scorer(clip.scores, clip.scores, margin)
    if name == "detector":
        return Scorer(lambda images, captions: judge_scenes(images, captions).astype(float), _ones)
    return Scorer(lambda images, captions: np.zeros(len(captions)), _ones)


def _ones(images: Sequence[Image], captions: Sequence[str]) -> Scores:
    return np.ones(len(captions))


def needs_teacher(kind: Kind) -> bool:
    """Return whether the teacher's image can be a winner."""
    return kind in ("teacher", "both")


def choose_pairs(
    samples: Float[np.ndarray, " samples"], teacher: float, kind: Kind, margin: float, count: int = 1, seed: int = 0
) -> list[tuple[int | None, int]]:
    """Return winner and loser of each pair among a caption's samples; a winner of None is the teacher's image.

    The loser is the first sample with the lowest score, but of "ranked". Returns [] if no winner has at least `margin`
    more.

    Args:
        samples, teacher: scores of the student's samples and of the teacher's image, which "best_worst" and "ranked"
            do not look at.
        kind: the winner is the "teacher"; the student's best sample ("best_worst"); the latter where there is one that
            much better, and the teacher else ("both"); or any two of the student's samples that differ so much are a
            pair ("ranked"): with a detector, each right one against each wrong one.
        margin: positive, or two equal images would be a pair.
        count: ranked: pairs at most, all different.
        seed: ranked: of their choice.
    """
    if kind == "ranked":
        winners, losers = np.nonzero(samples[:, None] - samples[None, :] >= margin)
        chosen = np.random.default_rng(seed).permutation(len(winners))[:count]
        return [(int(winners[pair]), int(losers[pair])) for pair in chosen]
    loser, best = int(np.argmin(samples)), int(np.argmax(samples))
    if kind != "teacher" and samples[best] - samples[loser] >= margin:
        return [(best, loser)]
    if kind != "best_worst" and teacher - samples[loser] >= margin:
        return [(None, loser)]
    return []
