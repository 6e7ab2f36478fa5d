"""How much arithmetic the student takes: floating-point operations of its matrix products, from its configuration.

Two operations for each multiply-add; norms, activations and the like are left out, and so is whatever a kernel or
activation checkpointing computes a second time. So these are *model* FLOPs, the numerator of model FLOP utilisation
(PaLM, Chowdhery et al. 2022, App. B). Free of torch: they can be told before anything runs.
"""

import math

from lightgen_core.config import HeadConfig, MarConfig, MaskConfig, SamplerConfig

TIME_FEATURES = 256
"""Values that tell the head its time step (`lightgen_core.model.head.time_features`)."""


def linear(rows: float, inputs: int, outputs: int) -> float:
    """A linear layer on `rows` vectors."""
    return 2 * rows * inputs * outputs


def forward_flops(
    mar: MarConfig, head: HeadConfig, *, tokens: int, hidden: float, words: int, draws: float
) -> dict[str, float]:
    """Forward pass of one image, by part of the student.

    Args:
        tokens: of the image, h x w of the grid.
        hidden: tokens that the encoder does not see and the head denoises.
        words: of the caption as it comes in, padding to the batch's longest included.
        draws: times and noises at which the head sees each hidden token.
    """
    width, visible = mar.width, tokens - hidden
    return {
        "aligner": linear(words, mar.text_width, width)
        + linear(words, width, width)
        + mar.aligner_depth * _block(mar, words),
        "encoder": linear(visible, mar.token_width, width) + mar.encoder_depth * _block(mar, visible),
        "decoder": linear(visible, width, width) + mar.decoder_depth * _block(mar, tokens),
        "reader": mar.text_depth * _text_memory(mar, words) + _reader(mar, tokens, hidden, words),
        "head": linear(hidden, width, head.width) + draws * hidden * (_time(head) + _denoising(mar, head)),
    }


def training_flops(mar: MarConfig, head: HeadConfig, *, tokens: int, hidden: float, words: int, draws: float) -> float:
    """Forward and backward pass of one image; arguments as of `forward_flops`.

    A backward pass multiplies twice for each product of the forward pass, once for each of its two factors. The
    layers that read the data itself (captions, tokens, noisy tokens, times) need the gradient of their weights alone.
    """
    reads_data = (
        linear(words, mar.text_width, mar.width)
        + linear(tokens - hidden, mar.token_width, mar.width)
        + draws * hidden * (linear(1, mar.token_width, head.width) + linear(1, TIME_FEATURES, head.width))
    )
    forward = forward_flops(mar, head, tokens=tokens, hidden=hidden, words=words, draws=draws)
    return 3 * sum(forward.values()) - reads_data


def expected_training_flops(
    mar: MarConfig, head: HeadConfig, mask: MaskConfig, *, tokens: int, words: int, draws: int
) -> float:
    """`training_flops` on average over the steps' numbers of hidden tokens."""
    return sum(
        share * training_flops(mar, head, tokens=tokens, hidden=hidden, words=words, draws=draws)
        for hidden, share in hidden_counts(tokens, mask).items()
    )


def sampling_flops(mar: MarConfig, head: HeadConfig, sampler: SamplerConfig, *, tokens: int, words: int) -> float:
    """Sampling one image in the plain setting: every iteration reads image and text anew, guided where guidance > 1.

    The text is aligned once, and a time step embedded once for all tokens. The cosine reveal is taken without its
    rounding to whole tokens.
    """
    branches = 2 if sampler.guidance_scale > 1 else 1
    iterations = min(sampler.iterations, tokens)
    whole = forward_flops(mar, head, tokens=tokens, hidden=tokens, words=words, draws=0)
    denoising = sampler.head_steps * (tokens * branches * _denoising(mar, head) + iterations * _time(head))
    memory = mar.text_depth * _text_memory(mar, words)
    total = whole["aligner"] + memory + branches * whole["head"] + denoising
    for done in range(iterations):
        left, next_left = (tokens * math.cos(math.pi / 2 * step / iterations) for step in (done, done + 1))
        part = forward_flops(mar, head, tokens=tokens, hidden=left, words=words, draws=0)
        total += part["encoder"] + part["decoder"] + _reader(mar, tokens, left - next_left, words)
        if branches == 2:  # the null text is one word
            total += _reader(mar, tokens, left - next_left, 1)
    return total


def hidden_counts(tokens: int, mask: MaskConfig) -> dict[int, float]:
    """Every number of tokens that a step may hide, with its probability (`train/step_noise.py`)."""
    if mask.distribution == "uniform":
        fewest = max(1, math.ceil(mask.min_ratio * tokens))
        raw = dict.fromkeys(range(fewest, tokens + 1), 1 / (tokens + 1 - fewest))
    else:
        edges = [_below(count / tokens, mask) for count in range(tokens + 1)]
        raw = {count: edges[count] - edges[count - 1] for count in range(1, tokens + 1)}
    counts: dict[int, float] = {}
    for count, share in raw.items():
        rounded = min(tokens, math.ceil(count / mask.multiple) * mask.multiple)
        counts[rounded] = counts.get(rounded, 0.0) + share
    return {count: share for count, share in counts.items() if share > 0}


def _below(share: float, mask: MaskConfig) -> float:
    """The chance that the truncated normal's hidden share is at most `share`."""
    low, high, here = (
        math.erf((bound - mask.mean) / (mask.std * math.sqrt(2)))
        for bound in (mask.min_ratio, 1.0, max(share, mask.min_ratio))
    )
    return (here - low) / (high - low)


def _mlp(mar: MarConfig, length: float) -> float:
    return 2 * linear(length, mar.width, round(mar.width * mar.mlp_ratio))


def _attention(width: int, queries: float, keys: float) -> float:
    """Scores and the mean of values under them."""
    return 2 * linear(queries, width, 1) * keys


def _self_attention(mar: MarConfig, length: float) -> float:
    return 4 * linear(length, mar.width, mar.width) + _attention(mar.width, length, length)


def _block(mar: MarConfig, length: float) -> float:
    return _self_attention(mar, length) + _mlp(mar, length)


def _text_memory(mar: MarConfig, words: float) -> float:
    """Keys and values of a text, for one text block."""
    return linear(words, mar.width, 2 * mar.width)


def _reader(mar: MarConfig, tokens: float, read: float, words: float) -> float:
    """The text blocks, given the text's keys and values, where the states of `read` tokens are asked for.

    Where image states do not attend to each other, the blocks see those tokens alone.
    """
    seen, own = read, 0.0
    if mar.text_self_attention:
        seen, own = tokens, _self_attention(mar, tokens)
    block = own + 2 * linear(seen, mar.width, mar.width) + _attention(mar.width, seen, words) + _mlp(mar, seen)
    return linear(tokens, mar.width, mar.width) + mar.text_depth * block


def _time(head: HeadConfig) -> float:
    """The embedding of a time step."""
    return linear(1, TIME_FEATURES, head.width) + linear(1, head.width, head.width)


def _denoising(mar: MarConfig, head: HeadConfig) -> float:
    """The head at one noisy token, the embeddings of its condition and time given."""
    outputs = mar.token_width * (2 if head.objective == "ddpm" else 1)
    block = 5 * linear(1, head.width, head.width)  # two of the MLP, and shift, scale and gate
    return linear(1, mar.token_width, head.width) + head.depth * block + linear(1, head.width, 2 * head.width + outputs)
