"""Losses of a student on a batch with given step noise: unreduced, at masked tokens only."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightgen_core.model.mar import gather_tokens
from lightgen_core.train.step_noise import StepNoise


def token_losses(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    step_noise: StepNoise,
) -> Float[Tensor, "noise_samples batch num_masked"]:
    """Compute the training loss of every noise sample of every masked token.

    Args:
        student: a `Student`, wrapped (DDP, FSDP) or not.
        text, text_mask: raw text states, and which of them are not padding.
        grid: (h, w) in tokens.
    """
    x0, output = _predict(student, tokens, text, text_mask, grid, step_noise)
    loss = step_noise.objective.loss(output, x0, step_noise.timestep, step_noise.noise)
    return loss.unflatten(1, (-1, step_noise.num_masked))


def token_residuals(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    step_noise: StepNoise,
) -> Float[Tensor, "noise_samples batch num_masked values"]:
    """Compute prediction minus target; arguments as of `token_losses`.

    The mean of its squares over noise samples, tokens and channels is the paper's l (Eq. 7).
    """
    x0, output = _predict(student, tokens, text, text_mask, grid, step_noise)
    prediction, _ = step_noise.objective.split_variance(output.float())
    residual = prediction - step_noise.objective.target(x0, step_noise.timestep, step_noise.noise)
    return residual.unflatten(1, (-1, step_noise.num_masked))


def _predict(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch text_tokens text_width"],
    text_mask: Bool[Tensor, "batch text_tokens"] | None,
    grid: tuple[int, int],
    step_noise: StepNoise,
) -> tuple[Float[Tensor, "noise_samples rows values"], Float[Tensor, "noise_samples rows outputs"]]:
    """Return masked tokens, a view for each noise sample, and the head's outputs at their noisy versions."""
    masked = gather_tokens(tokens, step_noise.masked_index).flatten(0, 1)
    x0 = masked.expand_as(step_noise.noise)
    output = student(
        tokens,
        text,
        text_mask,
        grid,
        mask=step_noise.mask,
        masked_index=step_noise.masked_index,
        text_dropped=step_noise.text_dropped,
        noisy=step_noise.objective.add_noise(x0, step_noise.timestep, step_noise.noise),
        timestep=step_noise.timestep,
    )
    return x0, output
