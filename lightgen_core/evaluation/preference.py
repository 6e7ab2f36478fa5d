"""Preference pairs: the choice of winners and losers among one caption's images, by their scores."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Kind = Literal["teacher", "best_worst", "both", "ranked"]


class Lead(NamedTuple):
    """Scores of the student's samples and of the teacher's image, and by how much a winner has to lead.

    margin: 0: a winner may not be worse.
    """

    samples: Float[np.ndarray, " samples"]
    teacher: float
    margin: float


def needs_teacher(kind: Kind) -> bool:
    """Return whether the teacher's image can be a winner."""
    return kind in ("teacher", "both")


def choose_pairs(
    score: Lead, kind: Kind, *, count: int = 1, seed: int = 0, agreement: Sequence[Lead] = ()
) -> list[tuple[int | None, int]]:
    """Return winner and loser of each pair among a caption's samples; a winner of None is the teacher's image.

    The loser is the first sample with the lowest score, but of "ranked". Returns [] if no winner leads.

    Args:
        score: what pairs are chosen by; its margin is positive, or two equal images would be a pair. "best_worst" and
            "ranked" do not look at the teacher's.
        kind: the winner is the "teacher"; the student's best sample ("best_worst"); the latter where there is one that
            much better, and the teacher else ("both"); or any two of the student's samples that differ so much are a
            pair ("ranked"): with a detector, each right one against each wrong one.
        count, seed: ranked: pairs at most, all different, and the seed of their choice.
        agreement: further scores in which a winner has to lead too.
    """
    leads = [score, *agreement]

    def wins(winner: int | None, loser: int) -> bool:
        return all(
            (lead.teacher if winner is None else lead.samples[winner]) - lead.samples[loser] >= lead.margin
            for lead in leads
        )

    if kind == "ranked":
        better = [lead.samples[:, None] - lead.samples[None, :] >= lead.margin for lead in leads]
        winners, losers = np.nonzero(np.logical_and.reduce(better))
        chosen = np.random.default_rng(seed).permutation(len(winners))[:count]
        return [(int(winners[pair]), int(losers[pair])) for pair in chosen]
    loser, best = int(np.argmin(score.samples)), int(np.argmax(score.samples))
    if kind != "teacher" and wins(best, loser):
        return [(best, loser)]
    if kind != "best_worst" and wins(None, loser):
        return [(None, loser)]
    return []
