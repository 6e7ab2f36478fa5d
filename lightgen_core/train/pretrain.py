"""Pre-training: the student learns to denoise hidden tokens, given the visible ones and the text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from lightgen_core.config import Layout, TrainConfig
from lightgen_core.data.batches import Batch, TokenSource
from lightgen_core.diffusion.objectives import Objective, objective
from lightgen_core.model.student import Student
from lightgen_core.train.loop import TrainResult, fit
from lightgen_core.train.losses import token_losses
from lightgen_core.train.step_noise import Draw, draw
from lightgen_core.train.train_step import ALONE, Losses


@dataclass(frozen=True)
class Denoising:
    """The head's loss on hidden tokens: an image's loss is the mean over its draws and hidden tokens."""

    grid: tuple[int, int]
    token_width: int
    objective: Objective
    config: TrainConfig
    moments: bool = False
    """Whether batches hold means and standard deviations: tokens are drawn from them anew at each step."""

    def draw(self, images: tuple[int, int], generator: Generator) -> Draw:
        """Masks, times, noises, latents and dropped captions of images start to stop of a step's batch."""
        config, (height, width) = self.config, self.grid
        return draw(
            config.batch_size,
            height * width,
            self.token_width,
            config.mask,
            self.objective,
            config.noise_samples_per_token,
            config.caption_dropout,
            generator,
            images,
            self.moments,
        )

    def tokens(self, batch: Batch, draw: Draw) -> Tensor:
        """The tokens to learn, (rows, tokens, token width): of a batch of moments mean + std * noise."""
        if batch.std is None:
            return batch.tokens
        assert draw.latent_noise is not None, "a criterion without moments for a source that has them"
        return batch.tokens + batch.std * draw.latent_noise

    def losses(self, model: Student, batch: Batch, draw: Draw) -> Losses:
        """Losses of the images, (rows,)."""
        losses = token_losses(model, self.tokens(batch, draw), batch.text, batch.text_mask, self.grid, draw)
        return Losses(losses.mean(dim=(0, 2)), {})


def train(
    student: Student,
    source: TokenSource,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    device: torch.device,
    layout: Layout = ALONE,
    on_log: Callable[[dict], None] | None = None,
) -> TrainResult:
    """Pre-trains a student in place; see `fit` for folder, resume, log and errors."""
    criterion = Denoising(
        source.grid, student.head.token_width, objective(student.head.config.objective), config, source.moments
    )
    student.train()
    return fit(
        student, source, criterion, config, seed=seed, folder=folder, device=device, layout=layout, on_log=on_log
    )
