"""Auxiliary head that queries text states for count, colour and relation of each shape.

It stands in for an image student while the zoo's T5 is trained. It has one attention only, so colours and relations
must be in the states themselves, token by token.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.scene.vocabulary import COLORS, NUMBERS, RELATIONS, SHAPES

CHOICES = (1 + max(NUMBERS.values()), 1 + len(COLORS), 1 + len(RELATIONS))
"""Choices of each question: how many, which colour (or unsaid), where (or unsaid)."""


class Reader(nn.Module):
    """One attention over the states for each shape, then a linear answer to each question."""

    def __init__(self, text_width: int) -> None:
        super().__init__()
        self.query = nn.Embedding(len(SHAPES), text_width)
        self.key = nn.Linear(text_width, text_width)
        self.head = nn.Linear(text_width, sum(CHOICES))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return logits (rows, shapes, sum of CHOICES) of states (rows, text tokens, text width)."""
        scores = self.query.weight @ self.key(states).transpose(1, 2) / states.shape[2] ** 0.5
        return self.head(scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ states)

    def loss(self, states: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of targets (rows, shapes, questions), summed over questions."""
        logits = self(states, mask).flatten(0, 1).split(CHOICES, dim=-1)
        pairs = zip(logits, targets.flatten(0, 1).unbind(-1), strict=True)
        return torch.stack([functional.cross_entropy(predicted, expected) for predicted, expected in pairs]).sum()
