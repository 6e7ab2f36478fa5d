"""Training of a few-step head: regression on the full sampler's pairs of noise and token, the transformer frozen."""

from dataclasses import dataclass

import torch
from torch import Generator

from lightgen_core.config import FitConfig, MarConfig
from lightgen_core.data.distil_rows import DistilBatch
from lightgen_core.diffusion.objectives import get_objective
from lightgen_core.model.few_step import FewStepHead
from lightgen_core.model.flops import distillation_flops
from lightgen_core.train.step_noise import StepNoise
from lightgen_core.train.train_step import LossOutput, NeverStops


@dataclass(frozen=True)
class DistilHeadCriterion(NeverStops):
    """Squared error of the head's token, averaged over noises and values."""

    config: FitConfig
    mar: MarConfig | None = None
    """Sizes of the transformer whose states are read; None: FLOPs are not counted."""

    def prepare(self, model: FewStepHead, device: torch.device) -> None:
        """Put the head into training mode."""
        model.train()

    def sample_noise(self, grid: tuple[int, int], images: tuple[int, int], generator: Generator) -> StepNoise:
        """Return step noise of no token: the rows hold their noise, which the full sampler began with."""
        rows = images[1] - images[0]
        return StepNoise(
            objective=get_objective("flow"),
            num_masked=0,
            mask=torch.zeros(rows, 0, dtype=torch.bool),
            masked_index=torch.zeros(rows, 0, dtype=torch.int64),
            text_dropped=torch.zeros(rows, dtype=torch.bool),
            timestep=torch.zeros(1, 0),
            noise=torch.zeros(1, 0, 1),
        )

    def losses(self, model: FewStepHead, batch: DistilBatch, step_noise: StepNoise) -> LossOutput:
        """Compute the losses of the rows, (rows,)."""
        predicted = model(batch.noise.transpose(0, 1), batch.guidance, batch.states)
        error = predicted.float() - batch.tokens.transpose(0, 1)
        return LossOutput(error.square().mean(dim=(0, 2)), {})

    def flops(self, model: FewStepHead, batch: DistilBatch, step_noise: StepNoise) -> float | None:
        """Count an update on a batch, without the optimizer."""
        if self.mar is None:
            return None
        rows, samples = batch.noise.shape[:2]
        return rows * distillation_flops(self.mar, model.sizes, noise_samples=samples)
