"""A reader that makes text states worth attending to: it fills the hidden cells of a symbolic picture from them.

It stands in for an image student while the zoo's T5 is trained and is thrown away afterwards. Being small, it has
to find who has which colour and stands where in the states themselves.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.scene.vocabulary import COLORS, SHAPES
from lightgen_core.zoo.captioned import GRID

EMPTY = len(SHAPES)
UNSEEN = -1


class CellReader(nn.Module):
    """Predicts what is in each cell of a GRID x GRID picture from the visible cells and the text's states."""

    def __init__(self, text_width: int, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, width)
        self.content = nn.Embedding(2 + len(SHAPES) * len(COLORS), width)
        self.place = nn.Embedding(GRID * GRID, width)
        self.block = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.color = nn.Linear(width, len(COLORS))

    def forward(self, cells: Tensor, hidden: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of shape (rows, cells, shapes + 1; the last is EMPTY) and of colour (rows, cells, colours).

        cells: (rows, GRID²) as in `Captioned`; hidden: (rows, GRID²) bool; states: (rows, words, text width);
        mask: (rows, words) bool, True at words.
        """
        seen = cells.masked_fill(hidden, UNSEEN) + 1
        queries = self.content(seen) + self.place.weight
        read = self.norm(self.block(queries, self.text(states), memory_key_padding_mask=~mask))
        return self.shape(read), self.color(read)

    def loss(self, cells: Tensor, hidden: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the hidden cells' shapes, and of the colours where there is something."""
        shapes, colors = self(cells, hidden, states, mask)
        filled = cells > 0
        shape = torch.where(filled, (cells - 1).div(len(COLORS), rounding_mode="floor"), EMPTY)
        color = (cells - 1) % len(COLORS)
        by_shape = functional.cross_entropy(shapes[hidden], shape[hidden])
        seen = hidden & filled
        return by_shape + functional.cross_entropy(colors[seen], color[seen]) * seen.sum() / hidden.sum()
