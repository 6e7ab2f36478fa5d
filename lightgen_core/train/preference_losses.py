"""Objectives of preference tuning, for each pair, from errors and residuals at shared step noise.

An error is the mean square of a residual, prediction minus target. Deltas are the policy's error minus the reference's,
and the margin, by how much more the loser's rose than the winner's, stands for a difference of log-likelihoods: of
Diffusion-DPO's bound it is twice that. No loss depends on other pairs of the batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Errors = Float[Tensor, " pairs"]
Residuals = Float[Tensor, "noise_samples pairs tokens values"]

SMALLEST_ERROR = 1e-4
"""Below it, errors count as this much where they are divided by."""


class PairErrors(NamedTuple):
    """Errors of both images under policy and reference, (pairs,) each."""

    winner: Errors
    loser: Errors
    reference_winner: Errors
    reference_loser: Errors

    @property
    def winner_delta(self) -> Errors:
        """Rise of the winner's error."""
        return self.winner - self.reference_winner

    @property
    def loser_delta(self) -> Errors:
        """Rise of the loser's error."""
        return self.loser - self.reference_loser

    @property
    def margin(self) -> Errors:
        """Rise of the loser's error less that of the winner's: positive where the pair is won."""
        return self.loser_delta - self.winner_delta


def dpo(errors: PairErrors, beta: float) -> Errors:
    """Compute Diffusion-DPO's loss (Wallace et al. 2023; the paper's Eq. 7).

    -log sigmoid(-beta / 2 * [(l_policy(w) - l_policy(l)) - (l_ref(w) - l_ref(l))]); with a policy that equals its
    reference it is log 2.
    """
    return -functional.logsigmoid(beta / 2 * errors.margin)


def ipo(errors: PairErrors, beta: float) -> Errors:
    """Compute IPO's loss (Azar et al. 2023, Eq. 17), times beta^2: the margin is drawn to 1 / beta, not to infinity."""
    return (beta / 2 * errors.margin - 0.5).square()


def kto(errors: PairErrors, beta: float) -> Errors:
    """Compute Diffusion-KTO's loss (Li et al. 2024) with a reference point of 0: both images are judged on their own.

    A reference point from the batch, as published, would make a pair's loss depend on the other pairs.
    """
    gains = torch.sigmoid(-beta / 2 * errors.winner_delta), torch.sigmoid(beta / 2 * errors.loser_delta)
    return (1 - gains[0]) + (1 - gains[1])


def mapo(errors: PairErrors, beta: float) -> Errors:
    """Compute MaPO's loss (Hong et al. 2024, Eq. 9): the winner's error and a margin of odds, without a reference."""
    odds = _odds(errors.winner) - _odds(errors.loser)
    return errors.winner - functional.logsigmoid(beta * odds)


def _odds(error: Errors) -> Errors:
    """Return x / (exp(x) - 1), which falls from 1 with the error; flat where its parts leave the number format."""
    error = error.clamp(SMALLEST_ERROR, 30)
    return error / torch.expm1(error)


def sft(errors: PairErrors, beta: float) -> Errors:
    """Return the winner's error alone: fine-tuning on what is preferred, the control of all others."""
    return errors.winner


def nft(
    winner: Residuals, loser: Residuals, reference_winner: Residuals, reference_loser: Residuals, contrast: float
) -> Errors:
    """Compute a forward-process contrast (DiffusionNFT, Zheng et al. 2025, Eq. 5), here for each masked token.

    With residuals r of the policy and o of the reference, the winner's target is met by (1 - b) o + b r and the loser's
    by (1 + b) o - b r; both errors are relative to the reference's, and their sum is divided by b.
    """
    toward = (1 - contrast) * reference_winner + contrast * winner
    away = (1 + contrast) * reference_loser - contrast * loser
    relative = [
        mean_square(mixed) / mean_square(reference).clamp(min=SMALLEST_ERROR)
        for mixed, reference in ((toward, reference_winner), (away, reference_loser))
    ]
    return (relative[0] + relative[1]) / contrast


def mean_square(residuals: Residuals) -> Errors:
    """Return the error of each pair, the paper's l (Eq. 7)."""
    return residuals.square().mean(dim=(0, 2, 3))


OF_ERRORS = {"dpo": dpo, "ipo": ipo, "kto": kto, "mapo": mapo, "sft": sft}
"""Losses of errors and beta, by name."""
