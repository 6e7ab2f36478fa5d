"""Diffusion-DPO for the per-token head (paper, "DPO", Eq. 7), with guards against likelihood displacement.

The plain loss only asks that the loser's error rises more than the winner's: both may rise, and the images with them
get worse while the pair accuracy looks best. Two guards act on the gradient, and a third stops the run:
`sdpo` scales the loser's gradient so that the winner's error does not rise to first order; `anchor` also trains on the
winner; a rise of the winner's error over the reference's beyond a tolerance brings back the last checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from lightgen_core.config import DpoConfig, Layout
from lightgen_core.data.batches import PairBatch, PairSource
from lightgen_core.diffusion.objectives import Objective, objective
from lightgen_core.model.student import Student
from lightgen_core.train.loop import TrainResult, fit
from lightgen_core.train.losses import token_residuals
from lightgen_core.train.step_noise import Draw, draw
from lightgen_core.train.train_step import ALONE, Losses


class PairLosses(NamedTuple):
    """Per pair, (pairs,) each. Deltas are the policy's error minus the reference's; a positive margin is a win."""

    loss: Tensor
    margin: Tensor
    winner_delta: Tensor
    loser_delta: Tensor


def dpo_loss(
    policy_winner: Float[Tensor, " pairs"],
    policy_loser: Float[Tensor, " pairs"],
    reference_winner: Float[Tensor, " pairs"],
    reference_loser: Float[Tensor, " pairs"],
    beta: float,
) -> PairLosses:
    """Eq. 7 for the errors l of both images under policy and reference, at one shared draw.

    -log sigmoid(-beta / 2 * [(l_policy(w) - l_policy(l)) - (l_ref(w) - l_ref(l))]); with a policy that equals its
    reference it is log 2.
    """
    winner_delta, loser_delta = policy_winner - reference_winner, policy_loser - reference_loser
    margin = loser_delta - winner_delta
    return PairLosses(-functional.logsigmoid(beta / 2 * margin), margin, winner_delta, loser_delta)


def loser_factor(
    winner: Float[Tensor, "draws pairs tokens values"], loser: Float[Tensor, "draws pairs tokens values"], mu: float
) -> Float[Tensor, " pairs"]:
    """Diffusion-SDPO's factor on the loser's gradient, from the residuals of both images at a shared draw.

    A step along -(gA - factor * gB), with gA and gB the gradients of the winner's and the loser's error with respect
    to the head's output, changes the winner's error by -(|gA|^2 - factor * gA.gB) to first order. The factor
    clip((1 - mu) * |gA|^2 / gA.gB, 0, 1) where gA.gB > 0, else 1, keeps at least a share mu of |gA|^2. The error is a
    mean of squares, so its gradient is the residual times a constant that cancels.
    """
    shared = (winner * loser).sum(dim=(0, 2, 3))
    own = (1 - mu) * winner.square().sum(dim=(0, 2, 3))
    # Where own >= shared the factor is 1 in any case, whatever the sign of shared: no division by zero.
    return torch.where(shared > own, own / shared.clamp(min=torch.finfo(shared.dtype).tiny), 1.0).detach()


def doubled(drawn: Draw) -> Draw:
    """The draw of a batch for the same batch twice over: what winners and losers share."""

    def twice(tensor: Tensor, dim: int) -> Tensor:
        return torch.cat([tensor, tensor], dim=dim)

    return replace(
        drawn,
        hidden=twice(drawn.hidden, 0),
        index=twice(drawn.index, 0),
        text_dropped=twice(drawn.text_dropped, 0),
        timestep=twice(drawn.timestep, 1),
        noise=twice(drawn.noise, 1),
    )


@dataclass(frozen=True)
class Preference:
    """The DPO criterion: winner over loser, measured against a frozen reference."""

    reference: Student
    grid: tuple[int, int]
    token_width: int
    objective: Objective
    config: DpoConfig

    def draw(self, images: tuple[int, int], generator: Generator) -> Draw:
        """One draw for winner and loser, policy and reference; no caption is dropped."""
        config, (height, width) = self.config, self.grid
        return draw(
            config.batch_size,
            height * width,
            self.token_width,
            config.mask,
            self.objective,
            config.noise_samples_per_token,
            0.0,
            generator,
            images,
        )

    def losses(self, model: Student, batch: PairBatch, draw: Draw) -> Losses:
        """Losses of the pairs, (pairs,), and what shows whether the guards hold."""
        draw = doubled(draw)
        with torch.no_grad():
            reference_winner, reference_loser = (_error(part) for part in self._residuals(self.reference, batch, draw))
        winner, loser = self._residuals(model, batch, draw)
        policy_winner, policy_loser = _error(winner), _error(loser)
        guard, beta = self.config.displacement_guard, self.config.beta
        factor = torch.ones_like(policy_loser)
        if guard in ("sdpo", "both"):
            factor = loser_factor(winner.detach(), loser.detach(), self.config.sdpo_mu)
            policy_loser = factor * policy_loser + (1 - factor) * policy_loser.detach()
        pairs = dpo_loss(policy_winner, policy_loser, reference_winner, reference_loser, beta)
        anchor = self.config.anchor_weight * beta / 2 * policy_winner if guard in ("anchor", "both") else 0.0
        figures = {
            "preference_loss": pairs.loss,
            "accuracy": (pairs.margin > 0).float(),
            "margin": pairs.margin,
            "winner_delta": pairs.winner_delta,
            "loser_delta": pairs.loser_delta,
            "reference_error": reference_winner,
            "loser_factor": factor,
        }
        return Losses(pairs.loss + anchor, {name: figure.detach() for name, figure in figures.items()})

    def _residuals(self, model: Student, batch: PairBatch, draw: Draw) -> tuple[Tensor, Tensor]:
        """Residuals of winners and losers, (draws, pairs, tokens, values) each, from one pass over both."""
        tokens = torch.cat([batch.winner, batch.loser])
        text, mask = (torch.cat([part, part]) for part in (batch.text, batch.text_mask))
        winner, loser = token_residuals(model, tokens, text, mask, self.grid, draw).chunk(2, dim=1)
        return winner, loser


def _error(residuals: Float[Tensor, "draws pairs tokens values"]) -> Float[Tensor, " pairs"]:
    return residuals.square().mean(dim=(0, 2, 3))


def winner_rise(rows: Sequence[dict], horizon: int) -> float:
    """How far the winner's error lies above the reference's, as a share of it: an average over the log.

    Exponential, with the weight 2 / (horizon + 1) on the newest row and zero as its start: before the first update
    policy and reference are equal.
    """
    rise = 0.0
    for row in rows:
        rise += (row["winner_delta"] / row["reference_error"] - rise) * 2 / (horizon + 1)
    return rise


def tune(
    policy: Student,
    reference: Student,
    source: PairSource,
    config: DpoConfig,
    *,
    seed: int,
    folder: Path,
    device: torch.device,
    layout: Layout = ALONE,
    on_log: Callable[[dict], None] | None = None,
) -> TrainResult:
    """Tunes `policy` in place on pairs of images; see `fit` for folder, resume, log and errors.

    Policy and reference start from the same weights and run without dropout, so that their errors differ by the tuning
    alone. `TrainResult.stopped` says so when the winner's error rose and the run went back to its last checkpoint.
    """
    reference.to(device).eval().requires_grad_(False)
    policy.eval()
    head = policy.head
    criterion = Preference(reference, source.grid, head.token_width, objective(head.config.objective), config)

    def stop(rows: Sequence[dict]) -> str | None:
        rise = winner_rise(rows, config.tolerance_window)
        if rise <= config.tolerance:
            return None
        return f"the winner's error rose {rise:.1%} above the reference's; the tolerance is {config.tolerance:.1%}"

    return fit(
        policy,
        source,
        criterion,
        config,
        seed=seed,
        folder=folder,
        device=device,
        layout=layout,
        on_log=on_log,
        stop=stop,
    )
