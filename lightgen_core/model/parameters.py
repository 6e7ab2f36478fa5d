"""How many parameters a student has, from its configuration alone. Free of torch."""

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.flops import TIME_FEATURES


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def mar_parameters(mar: MarConfig) -> int:
    """Weights of the masked autoencoder with text, aligner and learned vectors included."""
    width, inner = mar.width, round(mar.width * mar.mlp_ratio)
    norm = 2 * width
    mlp = norm + _linear(width, inner) + _linear(inner, width)
    attention = norm + _linear(width, 3 * width) + _linear(width, width)
    text_block = 2 * norm + 2 * _linear(width, width) + _linear(width, 2 * width) + mlp
    if mar.text_self_attention:
        text_block += attention
    return (
        _linear(mar.text_width, width)
        + _linear(width, width)
        + (mar.aligner_depth + mar.encoder_depth + mar.decoder_depth) * (attention + mlp)
        + mar.text_depth * text_block
        + _linear(mar.token_width, width)
        + 2 * _linear(width, width)  # into the decoder, into the text decoder
        + 5 * norm  # after aligner, token embedding, encoder, decoder, text decoder
        + 2 * width  # null word, mask token
        + 3 * mar.position_grid**2 * width
    )


def head_parameters(mar: MarConfig, head: HeadConfig) -> int:
    """Weights of the per-token diffusion head."""
    width = head.width
    block = 2 * width + 2 * _linear(width, width) + _linear(width, 3 * width)
    outputs = mar.token_width * (2 if head.objective == "ddpm" else 1)
    return (
        _linear(TIME_FEATURES, width)
        + _linear(width, width)
        + _linear(mar.width, width)
        + _linear(mar.token_width, width)
        + head.depth * block
        + _linear(width, 2 * width)
        + _linear(width, outputs)
    )


def student_parameters(mar: MarConfig, head: HeadConfig) -> int:
    """Weights of both."""
    return mar_parameters(mar) + head_parameters(mar, head)
