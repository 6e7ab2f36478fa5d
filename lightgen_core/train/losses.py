"""From a student, a batch and a draw to losses: unreduced, and computed for hidden tokens only."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightgen_core.model.student import gather_tokens
from lightgen_core.train.step_noise import Draw


def token_losses(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch words text_width"],
    text_mask: Bool[Tensor, "batch words"] | None,
    grid: tuple[int, int],
    draw: Draw,
) -> Float[Tensor, "draws batch num_hidden"]:
    """The training loss of every draw of every hidden token. ``student``: a `Student`, wrapped (DDP, FSDP) or not."""
    target, output = _predict(student, tokens, text, text_mask, grid, draw)
    loss = draw.objective.loss(output, target, draw.timestep, draw.noise)
    return loss.unflatten(1, (-1, draw.num_hidden))


def token_residuals(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch words text_width"],
    text_mask: Bool[Tensor, "batch words"] | None,
    grid: tuple[int, int],
    draw: Draw,
) -> Float[Tensor, "draws batch num_hidden values"]:
    """Prediction minus what it should be; the squares' mean over draws, tokens, channels is the paper's l (Eq. 7)."""
    target, output = _predict(student, tokens, text, text_mask, grid, draw)
    prediction, _ = draw.objective.split(output.float())
    residual = prediction - draw.objective.wanted(target, draw.timestep, draw.noise)
    return residual.unflatten(1, (-1, draw.num_hidden))


def _predict(
    student: nn.Module,
    tokens: Float[Tensor, "batch tokens values"],
    text: Float[Tensor, "batch words text_width"],
    text_mask: Bool[Tensor, "batch words"] | None,
    grid: tuple[int, int],
    draw: Draw,
) -> tuple[Float[Tensor, "draws rows values"], Float[Tensor, "draws rows outputs"]]:
    """Hidden tokens, one copy per draw (a view), and the head's outputs at their noisy versions."""
    target = gather_tokens(tokens, draw.index).expand_as(draw.noise)
    output = student(
        tokens,
        text,
        text_mask,
        grid,
        hidden=draw.hidden,
        index=draw.index,
        text_dropped=draw.text_dropped,
        noisy=draw.objective.noisy(target, draw.timestep, draw.noise),
        timestep=draw.timestep,
    )
    return target, output
