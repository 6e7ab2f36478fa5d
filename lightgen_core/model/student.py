"""The student: masked autoencoder and per-token head, and the function of both that training differentiates."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.model.mar import Mar, take_tokens


def gather_tokens(
    values: Float[Tensor, "batch tokens width"], index: Int[Tensor, "batch chosen"]
) -> Float[Tensor, "rows width"]:
    """The chosen tokens of every image, image after image: rows = batch x chosen."""
    return take_tokens(values, index).flatten(0, 1)


class Student(nn.Module):
    """``mar`` gives token states, ``head`` denoises tokens given their states."""

    def __init__(self, mar: MarConfig, head: HeadConfig):
        super().__init__()
        self.mar = Mar(mar)
        self.head = TokenDenoiser(head, mar.token_width, mar.width)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw fresh weights from ``generator``."""
        self.mar.reset_parameters(generator)
        self.head.reset_parameters(generator)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens values"],
        text: Float[Tensor, "batch words text_width"],
        text_mask: Bool[Tensor, "batch words"] | None,
        grid: tuple[int, int],
        *,
        hidden: Bool[Tensor, "batch tokens"],
        index: Int[Tensor, "batch num_hidden"],
        text_dropped: Bool[Tensor, " batch"] | None,
        noisy: Float[Tensor, "draws rows values"],
        timestep: Float[Tensor, "draws rows"] | Int[Tensor, "draws rows"],
    ) -> Float[Tensor, "draws rows outputs"]:
        """The head's outputs at several noisy versions of each hidden token; rows = batch x num_hidden.

        One call, so that wrappers which hook ``forward`` (DDP, FSDP, compile) see the whole trained function. The
        text blocks and the head run on hidden tokens only, and a token's state is embedded once for all its draws.
        """
        states = self.mar(
            tokens, hidden, text, text_mask, grid, num_hidden=index.shape[1], text_dropped=text_dropped, at=index
        )
        embedded = self.head.embed(states.flatten(0, 1))
        return self.head.denoise(noisy, timestep, embedded)


def new_student(mar: MarConfig, head: HeadConfig, seed: int) -> Student:
    """A student with fresh weights on the CPU, the same for the same seed; no other random number is touched."""
    with torch.device("meta"):
        student = Student(mar, head)
    student.to_empty(device="cpu")
    student.reset_parameters(torch.Generator().manual_seed(seed))
    return student
