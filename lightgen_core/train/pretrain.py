"""Pre-training: denoise masked tokens, given the visible ones and the text (paper, Eq. 3)."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from lightgen_core.config import TrainConfig
from lightgen_core.data.batches import Batch, TokenSource
from lightgen_core.diffusion.objectives import Objective, get_objective
from lightgen_core.model.flops import training_flops
from lightgen_core.model.mar import Student
from lightgen_core.train.losses import predict, work_sizes
from lightgen_core.train.precision import apply_precision
from lightgen_core.train.step_noise import StepNoise
from lightgen_core.train.train_step import LossOutput, NeverStops


@dataclass(frozen=True)
class MaskedDenoisingCriterion(NeverStops):
    """The head's loss at masked tokens, averaged over an image's tokens and noise samples."""

    token_width: int
    objective: Objective
    config: TrainConfig
    moments: bool = False
    """True if batches hold means and deviations, from which each step samples tokens."""

    @classmethod
    def create(cls, student: Student, source: TokenSource, config: TrainConfig) -> Self:
        """Build the criterion that fits a student and its data."""
        head = student.head
        return cls(head.token_width, get_objective(head.config.objective), config, source.moments)

    def prepare(self, model: Student, device: torch.device) -> None:
        """Put the model into training mode, dropout active, and apply the configuration's precisions."""
        model.train()
        apply_precision(model, self.config, device)

    def sample_noise(self, grid: tuple[int, int], images: tuple[int, int], generator: Generator) -> StepNoise:
        """Sample the step noise of images start to stop of a step's batch, of (h, w) tokens each."""
        return StepNoise.sample(
            self.config,
            (grid[0] * grid[1], self.token_width),
            self.objective,
            generator,
            images=images,
            caption_dropout=self.config.caption_dropout,
            latent_noise=self.moments,
        )

    def tokens(self, batch: Batch, step_noise: StepNoise) -> Tensor:
        """Return the tokens to learn, (rows, tokens, token width); with moments mean + std * noise."""
        if batch.std is None:
            return batch.tokens
        assert step_noise.latent_noise is not None, "a criterion without moments for a source that has them"
        return batch.tokens + batch.std * step_noise.latent_noise

    def losses(self, model: Student, batch: Batch, step_noise: StepNoise) -> LossOutput:
        """Compute the losses of the images, (rows,)."""
        tokens = self.tokens(batch, step_noise)
        x0, output = predict(model, tokens, batch.text, batch.text_mask, batch.grid, step_noise)
        losses = step_noise.objective.loss(output, x0, step_noise.timestep, step_noise.noise)
        return LossOutput(losses.unflatten(1, (-1, step_noise.num_masked)).mean(dim=(0, 2)), {})

    def flops(self, model: Student, batch: Batch, step_noise: StepNoise) -> float:
        """Count an update on a batch, without the optimizer."""
        sizes = work_sizes(batch, step_noise)
        return len(batch.ids) * training_flops(model.mar.config, model.head.config, **sizes)
