"""Floating-point operations of a student, from its sizes alone: matrix products, at two operations a multiply-add.

Norms, activations, softmax and elementwise work are left out, as is usual for model FLOP utilisation (PaLM, App. B).
"""

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.mar.head import FREQUENCIES


def forward_flops(mar: MarConfig, head: HeadConfig, *, tokens: int, hidden: int, words: int, draws: int) -> int:
    """FLOPs of one image's forward pass in training: encoder at the visible tokens, head at the hidden ones.

    Args:
        mar, head: the student.
        tokens: tokens of the image.
        hidden: hidden tokens of it.
        words: words of its caption, padding included.
        draws: times and noises drawn for each hidden token.
    """
    width, visible = mar.width, tokens - hidden
    mlp = 2 * width * round(width * mar.mlp_ratio)

    def blocks(length: int) -> int:
        return length * (4 * width**2 + mlp) + 2 * length**2 * width

    aligner = words * (mar.text_width * width + width**2) + mar.aligner_depth * blocks(words)
    encoder = visible * mar.token_width * width + mar.encoder_depth * blocks(visible)
    decoder = visible * width**2 + mar.decoder_depth * blocks(tokens)
    read = tokens if mar.text_self_attention else hidden
    text_block = read * (2 * width**2 + mlp) + 2 * words * width**2 + 2 * read * words * width
    if mar.text_self_attention:
        text_block += 4 * tokens * width**2 + 2 * tokens**2 * width
    reader = tokens * width**2 + mar.text_depth * text_block
    return 2 * (aligner + encoder + decoder + reader + _head(mar, head, hidden, draws))


def training_flops(mar: MarConfig, head: HeadConfig, *, tokens: int, hidden: int, words: int, draws: int) -> int:
    """FLOPs of one image in a training step: a backward pass costs two forward passes."""
    return 3 * forward_flops(mar, head, tokens=tokens, hidden=hidden, words=words, draws=draws)


def _head(mar: MarConfig, head: HeadConfig, hidden: int, draws: int) -> int:
    """Multiply-adds of the head: times and blocks for every draw, the condition once for each token."""
    width, outputs = head.width, mar.token_width * (2 if head.objective == "ddpm" else 1)
    time = 2 * FREQUENCIES * width + width**2
    draw = time + mar.token_width * width + head.depth * 5 * width**2 + 2 * width**2 + width * outputs
    return hidden * (draws * draw + mar.width * width)
