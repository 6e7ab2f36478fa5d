"""Pre-training: denoise masked tokens, given the visible ones and the text (paper, Eq. 3).

With `TrainConfig.repa` states of a block also learn the features that a frozen encoder has of the image: representation
alignment (REPA, Yu et al. 2024, arXiv 2410.06940); `lightgen_core/model/aligned.py` says of which tokens, and why.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from lightgen_core.config import TrainConfig
from lightgen_core.data.batches import Batch, TokenSource
from lightgen_core.diffusion.objectives import Objective, get_objective
from lightgen_core.model.aligned import AlignedStudent
from lightgen_core.model.flops import alignment_flops, training_flops
from lightgen_core.model.mar import Student, gather_tokens
from lightgen_core.train.losses import alignment_loss, latent_tokens, predict, student_inputs, work_sizes
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

    def losses(self, model: Student, batch: Batch, step_noise: StepNoise) -> LossOutput:
        """Compute the losses of the images, (rows,); with an alignment `loss` in the log is the head's alone."""
        tokens, repa = latent_tokens(batch, step_noise), self.config.repa
        if repa is None:
            x0, output = predict(model, tokens, batch.text, batch.text_mask, batch.grid, step_noise)
            return LossOutput(self._denoising(output, x0, step_noise), {})
        x0, inputs = student_inputs(tokens, batch.text, batch.text_mask, batch.grid, step_noise)
        output, projected = model(**inputs, aligned=True)
        denoising = self._denoising(output, x0, step_noise)
        alignment = alignment_loss(projected, _features(batch, step_noise, projected.shape[1]))
        metrics = {"loss": denoising.detach(), "alignment_loss": alignment.detach()}
        return LossOutput(denoising + repa.weight * alignment, metrics)

    def flops(self, model: Student, batch: Batch, step_noise: StepNoise) -> float:
        """Count an update on a batch, without the optimizer."""
        sizes, mar = work_sizes(batch, step_noise), model.mar.config
        each = training_flops(mar, model.head.config, **sizes)
        if isinstance(model, AlignedStudent):
            each += alignment_flops(mar, model.projector_config, tokens=sizes["tokens"], masked=sizes["masked"])
        return len(batch.ids) * each

    def _denoising(self, output: Tensor, x0: Tensor, step_noise: StepNoise) -> Tensor:
        """Compute the head's losses of the images, (rows,)."""
        losses = step_noise.objective.loss(output, x0, step_noise.timestep, step_noise.noise)
        return losses.unflatten(1, (-1, step_noise.num_masked)).mean(dim=(0, 2))


def _features(batch: Batch, step_noise: StepNoise, states: int) -> Tensor:
    """Return the features of an image's aligned tokens: all that the step keeps, or of so many states the masked."""
    assert batch.features is not None, "an alignment with a source that reads no features"
    features = batch.features
    if step_noise.places is not None:
        features = gather_tokens(features, step_noise.places)
    return features if states == features.shape[1] else gather_tokens(features, step_noise.masked_index)
