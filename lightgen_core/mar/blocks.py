"""Transformer blocks: self-attention, cross-attention to the text, MLP. Pre-norm, biases everywhere."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

NORM_EPS = 1e-6


def layer_norm(width: int) -> nn.LayerNorm:
    """Layer norm over ``width`` channels with the student's epsilon, 1e-6."""
    return nn.LayerNorm(width, eps=NORM_EPS)


def attention(
    query: Float[Tensor, "batch heads queries head_width"],
    key: Float[Tensor, "batch heads keys head_width"],
    value: Float[Tensor, "batch heads keys head_width"],
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch queries width"]:
    """Scaled dot-product attention of all heads, heads joined again. ``key_mask`` is true where a key may be read."""
    dtype = query.dtype
    if query.device.type == "cpu":
        # The backward of bf16 attention on CPUs is several times slower than fp32's.
        query, key, value = query.float(), key.float(), value.float()
    mask = None if key_mask is None else key_mask[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.to(dtype).transpose(1, 2).flatten(2)


def split_heads(
    states: Float[Tensor, "batch length joined"], parts: int, heads: int
) -> tuple[Float[Tensor, "batch heads length head_width"], ...]:
    """Cut (batch, length, parts x heads x head width) into ``parts`` tensors (batch, heads, length, head width)."""
    batch, length, joined = states.shape
    cut = states.view(batch, length, parts, heads, joined // (parts * heads))
    return cut.permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.out_dropout = nn.Dropout(dropout)

    def forward(
        self, states: Float[Tensor, "batch length width"], key_mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        query, key, value = split_heads(self.qkv(states), 3, self.heads)
        mixed = attention(query, key, value, key_mask, self.dropout if self.training else 0.0)
        return self.out_dropout(self.out(mixed))


class TextAttention(nn.Module):
    """Multi-head attention of image states to text: queries from one, keys and values from the other."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.out_dropout = nn.Dropout(dropout)

    def memory(
        self, text: Float[Tensor, "batch words width"]
    ) -> tuple[Float[Tensor, "batch heads words head_width"], Float[Tensor, "batch heads words head_width"]]:
        """Keys and values of the text."""
        key, value = split_heads(self.key_value(text), 2, self.heads)
        return key, value

    def forward(
        self,
        states: Float[Tensor, "batch tokens width"],
        memory: tuple[Float[Tensor, "batch heads words head_width"], Float[Tensor, "batch heads words head_width"]],
        word_mask: Bool[Tensor, "batch words"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        (query,) = split_heads(self.query(states), 1, self.heads)
        mixed = attention(query, *memory, word_mask, self.dropout if self.training else 0.0)
        return self.out_dropout(self.out(mixed))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden_width: int, dropout: float):
        super().__init__()
        self.up = nn.Linear(width, hidden_width)
        self.down = nn.Linear(hidden_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.dropout(self.down(self.dropout(F.gelu(self.up(states)))))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float):
        super().__init__()
        self.attention_norm = layer_norm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.mlp_norm = layer_norm(width)
        self.mlp = Mlp(width, mlp_width, dropout)

    def forward(
        self, states: Float[Tensor, "batch length width"], key_mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        states = states + self.attention(self.attention_norm(states), key_mask)
        return states + self.mlp(self.mlp_norm(states))


class TextBlock(nn.Module):
    """Image states read the text: cross-attention, then MLP; on request self-attention before both.

    As in the released model the residual stream *is* the normalised query: with n = norm(x) the block gives
    n + attention(n, norm(text)), not x + attention(n, norm(text)).
    """

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float, self_attention: bool):
        super().__init__()
        self.self_norm = layer_norm(width) if self_attention else None
        self.self_attention = SelfAttention(width, heads, dropout) if self_attention else None
        self.query_norm = layer_norm(width)
        self.text_norm = layer_norm(width)
        self.attention = TextAttention(width, heads, dropout)
        self.mlp_norm = layer_norm(width)
        self.mlp = Mlp(width, mlp_width, dropout)

    def memory(
        self, text: Float[Tensor, "batch words width"]
    ) -> tuple[Float[Tensor, "batch heads words head_width"], Float[Tensor, "batch heads words head_width"]]:
        """Keys and values of aligned text: the part of this block that does not depend on the image."""
        return self.attention.memory(self.text_norm(text))

    def forward(
        self,
        states: Float[Tensor, "batch tokens width"],
        text: Float[Tensor, "batch words width"] | None,
        word_mask: Bool[Tensor, "batch words"] | None = None,
        memory: tuple[Float[Tensor, "batch heads words head_width"], Float[Tensor, "batch heads words head_width"]]
        | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """``memory`` takes the place of ``text`` where it was computed before."""
        if self.self_attention is not None:
            states = states + self.self_attention(self.self_norm(states))
        query = self.query_norm(states)
        states = query + self.attention(query, self.memory(text) if memory is None else memory, word_mask)
        return states + self.mlp(self.mlp_norm(states))
