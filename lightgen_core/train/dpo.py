"""Preference tuning of the student on pairs, with guards against likelihood displacement.

The losses are those of `preference_losses.py`; Diffusion-DPO (paper, "DPO", Eq. 7) is the default. It only asks that
the loser's error rises more than the winner's: both may rise, and the images get worse while the pair accuracy looks
best. Two guards act on the gradient, and a third stops the run: `sdpo` scales the loser's gradient so that the
winner's error does not rise to first order; `anchor` also trains on the winner; a rise of the winner's error over the
reference's beyond a tolerance brings back the last checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from lightgen_core.config import DpoConfig
from lightgen_core.data.batches import PairBatch, PairSource
from lightgen_core.diffusion.objectives import Objective, get_objective
from lightgen_core.model.flops import forward_flops, training_flops
from lightgen_core.model.mar import Student
from lightgen_core.train.losses import predict, work_sizes
from lightgen_core.train.preference_losses import OF_ERRORS, PairErrors, mean_square, nft
from lightgen_core.train.step_noise import StepNoise
from lightgen_core.train.train_step import LossOutput


def sdpo_scale(
    winner: Float[Tensor, "noise_samples pairs tokens values"],
    loser: Float[Tensor, "noise_samples pairs tokens values"],
    mu: float,
) -> Float[Tensor, " pairs"]:
    """Compute Diffusion-SDPO's scale of the loser's gradient from both images' residuals.

    A step along -(gA - factor * gB), with gA and gB the gradients of the winner's and the loser's error with respect
    to the head's output, changes the winner's error by -(|gA|^2 - factor * gA.gB) to first order. The factor
    clip((1 - mu) * |gA|^2 / gA.gB, 0, 1) where gA.gB > 0, else 1, keeps at least a share mu of |gA|^2. The error is a
    mean of squares, so its gradient is the residual times a constant that cancels.
    """
    shared = (winner * loser).sum(dim=(0, 2, 3))
    own = (1 - mu) * winner.square().sum(dim=(0, 2, 3))
    # Where own >= shared the factor is 1 in any case, whatever the sign of shared: no division by zero.
    return torch.where(shared > own, own / shared.clamp(min=torch.finfo(shared.dtype).tiny), 1.0).detach()


def repeat_for_pairs(step_noise: StepNoise) -> StepNoise:
    """Repeat a batch's step noise: winners and losers share it."""
    dims = {"mask": 0, "masked_index": 0, "text_dropped": 0, "timestep": 1, "noise": 1}
    dims |= {} if step_noise.places is None else {"places": 0}
    twice: dict[str, Any] = {name: torch.cat([getattr(step_noise, name)] * 2, dim=dim) for name, dim in dims.items()}
    return replace(step_noise, **twice)


@dataclass(frozen=True)
class DpoCriterion:
    """Prefer winner over loser, measured against a frozen reference."""

    reference: Student
    token_width: int
    objective: Objective
    config: DpoConfig
    may_stop: ClassVar = True

    @classmethod
    def create(cls, reference: Student, source: PairSource, config: DpoConfig) -> Self:
        """Build the criterion that fits the reference and the pairs."""
        head = reference.head
        return cls(reference, head.token_width, get_objective(head.config.objective), config)

    def prepare(self, model: Student, device: torch.device) -> None:
        """Put policy and reference into evaluation mode, so that their errors differ by the tuning alone."""
        self.reference.to(device).eval().requires_grad_(False)
        model.eval()

    def sample_noise(self, grid: tuple[int, int], images: tuple[int, int], generator: Generator) -> StepNoise:
        """Sample the noise that winner and loser, policy and reference share; no caption is dropped."""
        tokens = grid[0] * grid[1]
        return StepNoise.sample(self.config, (tokens, self.token_width), self.objective, generator, images=images)

    def losses(self, model: Student, batch: PairBatch, step_noise: StepNoise) -> LossOutput:
        """Compute the losses of the pairs, (pairs,), and metrics of the guards."""
        step_noise = repeat_for_pairs(step_noise)
        with torch.no_grad():
            reference = self._residuals(self.reference, batch, step_noise)
        winner, loser = self._residuals(model, batch, step_noise)
        policy_winner, policy_loser = mean_square(winner), mean_square(loser)
        guard, beta, factor = self.config.displacement_guard, self.config.beta, torch.ones_like(policy_loser)
        if guard in ("sdpo", "both") and self.config.objective not in ("sft", "nft"):
            factor = sdpo_scale(winner.detach(), loser.detach(), self.config.sdpo_mu)
            policy_loser = factor * policy_loser + (1 - factor) * policy_loser.detach()
        errors = PairErrors(policy_winner, policy_loser, mean_square(reference[0]), mean_square(reference[1]))
        if self.config.objective == "nft":
            loss = nft(winner, loser, *reference, self.config.contrast)
        else:
            loss = OF_ERRORS[self.config.objective](errors, beta)
        anchor = self.config.anchor_weight * beta / 2 * policy_winner if guard in ("anchor", "both") else 0.0
        metrics = {
            "preference_loss": loss,
            "accuracy": (errors.margin > 0).float(),
            "margin": errors.margin,
            "winner_delta": errors.winner_delta,
            "loser_delta": errors.loser_delta,
            "reference_error": errors.reference_winner,
            "loser_factor": factor,
        }
        return LossOutput(loss + anchor, {name: value.detach() for name, value in metrics.items()})

    def flops(self, model: Student, batch: PairBatch, step_noise: StepNoise) -> float:
        """Count an update on a batch, without the optimizer: winner and loser, policy and reference."""
        sizes, mar, head = work_sizes(batch, step_noise), model.mar.config, model.head.config
        reference = sum(forward_flops(mar, head, **sizes).values())
        return 2 * len(batch.ids) * (training_flops(mar, head, **sizes) + reference)

    def should_stop(self, rows: Sequence[dict]) -> str | None:
        """Return the reason to stop if the winner's error rose beyond the tolerance, or None."""
        rise, tolerance = winner_error_ema(rows, self.config.tolerance_window), self.config.tolerance
        if rise <= tolerance:
            return None
        return f"the winner's error rose {rise:.1%} above the reference's; the tolerance is {tolerance:.1%}"

    def may_keep(self, rows: Sequence[dict]) -> bool:
        """Keep weights of the newest row if the winner's error in it alone is within the tolerance.

        The average that `should_stop` judges lags behind: a checkpoint made meanwhile would bring the rise back.
        """
        return winner_error_ema(rows[-1:], horizon=1) <= self.config.tolerance

    def _residuals(self, model: Student, batch: PairBatch, step_noise: StepNoise) -> tuple[Tensor, Tensor]:
        """Compute prediction minus target of winners and losers, (noise_samples, pairs, tokens, values) each.

        The mean of its squares over noise samples, tokens and values is the paper's l (Eq. 7).
        """
        tokens = torch.cat([batch.winner, batch.loser])
        text, mask = (torch.cat([part, part]) for part in (batch.text, batch.text_mask))
        x0, output = predict(model, tokens, text, mask, batch.grid, step_noise)
        residual = step_noise.objective.residual(output, x0, step_noise.timestep, step_noise.noise)
        winner, loser = residual.unflatten(1, (-1, step_noise.num_masked)).chunk(2, dim=1)
        return winner, loser


def winner_error_ema(rows: Sequence[dict], horizon: int) -> float:
    """Average the winner's relative excess error over the log, from zero, 2 / (horizon + 1) on the newest row."""
    rise = 0.0
    for row in rows:
        rise += (row["winner_delta"] / row["reference_error"] - rise) * 2 / (horizon + 1)
    return rise
