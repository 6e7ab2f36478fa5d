"""Transformer blocks: self-attention, cross-attention to the text, MLP. Pre-norm, biases everywhere."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6
SHORTEST_ROW = 16
FEW_SCORES = 512
"""Queries x keys up to which a CPU may compute attention of fp32 by two products."""

_by_products: ContextVar[bool] = ContextVar("attention by products", default=False)

KeyValue = tuple[
    Float[Tensor, "batch heads text_tokens head_width"], Float[Tensor, "batch heads text_tokens head_width"]
]
"""Keys and values of a text for one attention layer."""


class LayerNorm(nn.LayerNorm):
    """Layer norm whose weights are widened to its input: sharded training gathers bf16 ones for an fp32 stream."""

    def forward(self, states: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        dtype = torch.promote_types(states.dtype, self.weight.dtype)
        return functional.layer_norm(
            states, self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps
        )


def layer_norm(width: int) -> nn.LayerNorm:
    """Build a layer norm over ``width`` channels with the student's epsilon, 1e-6."""
    return LayerNorm(width, eps=NORM_EPS)


def init_layers(module: nn.Module, generator: Generator | None) -> None:
    """Initialise linear layers (Xavier, zero biases) and norms of a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            layer.reset_parameters()


def attention(
    query: Float[Tensor, "batch heads queries head_width"],
    key: Float[Tensor, "batch heads keys head_width"],
    value: Float[Tensor, "batch heads keys head_width"],
    key_mask: Bool[Tensor, "batch keys"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch queries width"]:
    """Compute attention of all heads, heads joined again. ``key_mask`` is true where a key may be read."""
    if query.device.type == "cpu" and (query.dtype == torch.bfloat16 or _few_scores(query, key)):
        return _attention_by_products(query, key, value, key_mask, dropout).transpose(1, 2).flatten(2)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


@contextmanager
def few_scores_by_products() -> Iterator[None]:
    """Compute attention of few scores by two products on a CPU: the fused kernel takes longer to start on each head.

    Sampling does; not training, where a student without gradients has the bits of its equal with them.
    """
    token = _by_products.set(True)
    try:
        yield
    finally:
        _by_products.reset(token)


def _few_scores(query: Tensor, key: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    return _by_products.get() and query.shape[-2] * key.shape[-2] <= FEW_SCORES


def _attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float
) -> Float[Tensor, "batch heads queries head_width"]:
    """Compute attention on a CPU as two products with an fp32 softmax between them.

    In bf16 forward and backward take a third to two thirds of the fused kernel's time at 9 to 256 tokens; in fp32 the
    forward pass a quarter to four fifths of it at 2 x 20 to 16 x 16 scores, heads 24 to 64 wide. Rows of fewer than 16
    values miss torch's vectorised softmax, so short texts and grids have their scores in columns, four times faster.
    """
    columns = key.shape[-2] < SHORTEST_ROW
    scores = key @ query.transpose(-1, -2) if columns else query @ key.transpose(-1, -2)
    scores = scores.float() * query.shape[-1] ** -0.5
    if key_mask is not None:
        readable = key_mask[:, None, :, None] if columns else key_mask[:, None, None, :]
        scores = scores.masked_fill(~readable, -math.inf)
    weights = functional.dropout(scores.softmax(-2 if columns else -1).to(value.dtype), dropout)
    return (weights.transpose(-1, -2) if columns else weights) @ value


def split_heads(
    states: Float[Tensor, "batch length joined"], parts: int, heads: int
) -> tuple[Float[Tensor, "batch heads length head_width"], ...]:
    """Cut (batch, length, parts x heads x head width) into ``parts`` tensors (batch, heads, length, head width)."""
    batch, length, joined = states.shape
    cut = states.view(batch, length, parts, heads, joined // (parts * heads))
    return cut.permute(2, 0, 3, 1, 4).unbind(0)


class QkNorm(nn.RMSNorm):
    """RMS norm of queries, or of keys, over a head's channels, with a learned scale for each; computed in fp32."""

    def forward(
        self, states: Float[Tensor, "batch heads length head_width"]
    ) -> Float[Tensor, "batch heads length head_width"]:
        normed = functional.rms_norm(states.float(), self.normalized_shape, self.weight.float(), self.eps)
        return normed.to(states.dtype)


def qk_norm(width: int, heads: int, on: bool) -> nn.Module:
    """Build the norm of queries or keys, or nothing in its place."""
    return QkNorm(width // heads, eps=NORM_EPS) if on else nn.Identity()


class SelfAttention(nn.Module):
    """x + attention(norm(x)): every position reads every other."""

    def __init__(self, width: int, heads: int, dropout: float, normalize_qk: bool = False):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm = layer_norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm, self.key_norm = (qk_norm(width, heads, normalize_qk) for _ in range(2))
        self.out = nn.Linear(width, width)
        self.out_dropout = nn.Dropout(dropout)

    def forward(
        self, states: Float[Tensor, "batch length width"], key_mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        query, key, value = split_heads(self.qkv(self.norm(states)), 3, self.heads)
        query, key = self.query_norm(query), self.key_norm(key)
        mixed = attention(query, key, value, key_mask, self.dropout if self.training else 0.0)
        return states + self.out_dropout(self.out(mixed))


class CrossAttention(nn.Module):
    """Multi-head attention of image states to text: queries from one, keys and values from the other."""

    def __init__(self, width: int, heads: int, dropout: float, normalize_qk: bool = False):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.query_norm, self.key_norm = (qk_norm(width, heads, normalize_qk) for _ in range(2))
        self.out = nn.Linear(width, width)
        self.out_dropout = nn.Dropout(dropout)

    def keys_and_values(self, text: Float[Tensor, "batch text_tokens width"]) -> KeyValue:
        """Compute keys and values of the text."""
        key, value = split_heads(self.key_value(text), 2, self.heads)
        return self.key_norm(key), value

    def forward(
        self,
        states: Float[Tensor, "batch tokens width"],
        kv: KeyValue,
        text_mask: Bool[Tensor, "batch text_tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        (query,) = split_heads(self.query(states), 1, self.heads)
        mixed = attention(self.query_norm(query), *kv, text_mask, self.dropout if self.training else 0.0)
        return self.out_dropout(self.out(mixed))


class Mlp(nn.Module):
    """x + mlp(norm(x)), the MLP being two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden_width: int, dropout: float):
        super().__init__()
        self.norm = layer_norm(width)
        self.up = nn.Linear(width, hidden_width)
        self.down = nn.Linear(hidden_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        inner = self.dropout(functional.gelu(self.up(self.norm(states))))
        return states + self.dropout(self.down(inner))


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float, normalize_qk: bool = False):
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout, normalize_qk)
        self.mlp = Mlp(width, mlp_width, dropout)

    def forward(
        self, states: Float[Tensor, "batch length width"], key_mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        return self.mlp(self.attention(states, key_mask))


class CrossAttentionBlock(nn.Module):
    """Image states read the text: cross-attention, then MLP; on request self-attention before both.

    As in the released model the residual stream *is* the normalised query: with n = norm(x) the block gives
    n + attention(n, norm(text)), not x + attention(n, norm(text)).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        dropout: float,
        normalize_qk: bool = False,
        *,
        self_attention: bool,
    ):
        super().__init__()
        self.self_attention = SelfAttention(width, heads, dropout, normalize_qk) if self_attention else nn.Identity()
        self.query_norm = layer_norm(width)
        self.text_norm = layer_norm(width)
        self.attention = CrossAttention(width, heads, dropout, normalize_qk)
        self.mlp = Mlp(width, mlp_width, dropout)

    def keys_and_values(self, text: Float[Tensor, "batch text_tokens width"]) -> KeyValue:
        """Compute keys and values of aligned text, which do not depend on the image."""
        return self.attention.keys_and_values(self.text_norm(text))

    def forward(
        self,
        states: Float[Tensor, "batch tokens width"],
        text: Float[Tensor, "batch text_tokens width"] | KeyValue,
        text_mask: Bool[Tensor, "batch text_tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """``text``: aligned text, or its keys and values."""
        kv = self.keys_and_values(text) if isinstance(text, Tensor) else text
        states = self.self_attention(states)
        query = self.query_norm(states)
        return self.mlp(query + self.attention(query, kv, text_mask))
