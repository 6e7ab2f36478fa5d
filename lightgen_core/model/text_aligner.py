"""The text aligner: from the frozen text encoder's states to the student's space."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.config import MarConfig
from lightgen_core.model.blocks import Block, layer_norm


class TextAligner(nn.Module):
    """A two-layer projection (tanh-GELU between), transformer blocks over the text tokens, and a norm."""

    def __init__(self, config: MarConfig):
        super().__init__()
        width = config.width
        shape = (width, config.heads, round(width * config.mlp_ratio), config.dropout, config.qk_norm)
        self.up = nn.Linear(config.text_width, width)
        self.down = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(*shape) for _ in range(config.aligner_depth))
        self.norm = layer_norm(width)

    def forward(
        self, text: Float[Tensor, "batch text_tokens text_width"], text_mask: Bool[Tensor, "batch text_tokens"] | None
    ) -> Float[Tensor, "batch text_tokens width"]:
        """Align text tokens; ``text_mask`` is true where one may be read."""
        states = self.down(functional.gelu(self.up(text), approximate="tanh"))
        for block in self.blocks:
            states = block(states, text_mask)
        return self.norm(states)
