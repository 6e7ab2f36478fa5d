"""A student with the projector of representation alignment, while it trains (REPA, Yu et al. 2024, arXiv 2410.06940).

REPA maps states of an early block, through a small MLP, to the features that a frozen encoder has of the clean image.
There every state has seen its noisy patch. Here a state of the decoder knows its token if that is visible, and of a
masked one only what the visible ones tell; so alignment asks for a representation of the former and a prediction of the
latter. The text enters behind the decoder: a deeper block aligns what text and visible tokens tell together.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from lightgen_core.config import ProjectorConfig
from lightgen_core.model.blocks import init_layers
from lightgen_core.model.mar import Student

_PROJECTOR = "projector."


class AlignedStudent(Student):
    """A student whose forward pass also gives the projected states of one block.

    It shares the student's modules and the names of their weights. The projector is in a training's checkpoints and in
    no saved student.
    """

    def __init__(self, student: Student, projector: ProjectorConfig):
        nn.Module.__init__(self)
        self.mar, self.head = student.mar, student.head
        self.projector_config = projector
        self.projector = nn.Sequential(
            nn.Linear(self.mar.config.width, projector.width),
            nn.SiLU(),
            nn.Linear(projector.width, projector.width),
            nn.SiLU(),
            nn.Linear(projector.width, projector.feature_channels),
        )

    @property
    def aligned_block(self) -> nn.Module:
        """The block whose states are aligned."""
        return [*self.mar.decoder, *self.mar.cross_blocks][self.projector_config.depth - 1]

    def forward(  # type: ignore[override]
        self, *inputs: Any, aligned: bool = False, **named: Any
    ) -> (
        Float[Tensor, "noise_samples rows outputs"]
        | tuple[Float[Tensor, "noise_samples rows outputs"], Float[Tensor, "batch states channels"]]
    ):
        """Compute the student's outputs, and with `aligned` also the projected states, in one call as the student does.

        States are those of all tokens, or behind text blocks without self-attention of the masked ones.
        """
        if not aligned:
            return super().forward(*inputs, **named)
        states: list[Tensor] = []
        hook = self.aligned_block.register_forward_hook(lambda block, given, output: states.append(output))
        try:
            outputs = super().forward(*inputs, **named)
        finally:
            hook.remove()
        return outputs, self.projector(states[0])


def align_student(student: Student, projector: ProjectorConfig, seed: int) -> AlignedStudent:
    """Give a student on the CPU a projector with fresh weights from ``seed``; global randomness is untouched."""
    with torch.device("meta"):
        aligned = AlignedStudent(student, projector)
    aligned.projector.to_empty(device="cpu")
    init_layers(aligned.projector, Generator().manual_seed(seed))
    return aligned


def student_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the student alone: what is sampled needs no projector."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_PROJECTOR)}


def projector_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the projector's weights, by their names in `AlignedStudent`."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(_PROJECTOR)}
