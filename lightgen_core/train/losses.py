"""Predictions of a student on a batch with given step noise, at masked tokens only, and their sizes; alignment."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.data.batches import Batch
from lightgen_core.model.mar import gather_tokens
from lightgen_core.train.step_noise import StepNoise


def predict(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    step_noise: StepNoise,
) -> tuple[Float[Tensor, "noise_samples rows values"], Float[Tensor, "noise_samples rows outputs"]]:
    """Return masked tokens, a view for each noise sample, and the head's outputs at their noisy versions.

    Args:
        student: a `Student`, wrapped (DDP, FSDP) or not.
        text, text_mask: raw text states, and which of them are not padding.
        grid: (h, w) in tokens.
    """
    x0, inputs = student_inputs(tokens, text, text_mask, grid, step_noise)
    return x0, student(**inputs)


def student_inputs(
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    step_noise: StepNoise,
) -> tuple[Float[Tensor, "noise_samples rows values"], dict[str, Any]]:
    """Return masked tokens, a view for each noise sample, and the arguments of a student's forward pass."""
    if step_noise.places is not None:
        tokens = gather_tokens(tokens, step_noise.places)
    masked = gather_tokens(tokens, step_noise.masked_index).flatten(0, 1)
    x0 = masked.expand_as(step_noise.noise)
    inputs = {
        "tokens": tokens,
        "text": text,
        "text_mask": text_mask,
        "grid": grid,
        "mask": step_noise.mask,
        "masked_index": step_noise.masked_index,
        "text_dropped": step_noise.text_dropped,
        "noisy": step_noise.objective.add_noise(x0, step_noise.timestep, step_noise.noise),
        "timestep": step_noise.timestep,
        "places": step_noise.places,
    }
    return x0, inputs


def latent_tokens(batch: Batch, step_noise: StepNoise) -> Float[Tensor, "batch tokens values"]:
    """Return a step's tokens to learn, all of an image; of rows with moments mean + std * noise."""
    if batch.std is None:
        return batch.tokens
    assert step_noise.latent_noise is not None, "a criterion without moments for a source that has them"
    return batch.tokens + batch.std * step_noise.latent_noise


def alignment_loss(
    projected: Float[Tensor, "batch states channels"], features: Float[Tensor, "batch states channels"]
) -> Float[Tensor, " batch"]:
    """Compute 1 - cosine of projected states and features, averaged over an image's tokens (REPA, Eq. 8, plus 1)."""
    units = (functional.normalize(vectors.float(), dim=-1) for vectors in (projected, features))
    return 1 - torch.mul(*units).sum(dim=-1).mean(dim=1)


def work_sizes(batch: Any, step_noise: StepNoise) -> dict[str, Any]:
    """Return the sizes of one image's work, as the functions of `lightgen_core.model.flops` want them."""
    return {
        "tokens": step_noise.mask.shape[1],
        "masked": step_noise.num_masked,
        "text_tokens": batch.text.shape[1],
        "noise_samples": len(step_noise.timestep),
    }
