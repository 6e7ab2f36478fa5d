"""Device memory of training, from a student's configuration: what is there always, and what each image adds.

Activations are the tensors that autograd keeps between the forward and the backward pass; the terms follow
`model/blocks.py` and `model/head.py` line by line, and tests hold them within 5 % of what a step keeps on fake CUDA
tensors. Free of torch, like `model/flops.py`, for `lightgen doctor`.
"""

from dataclasses import dataclass
from typing import Literal

from lightgen_core.config import DistilConfig, DpoConfig, HeadConfig, LoopConfig, MarConfig, ProjectorConfig
from lightgen_core.model.flops import TIME_FEATURES, aligned_tokens, projector_parameters, student_parameters

STATIC_BYTES = 20
"""Bytes of a trained parameter in fp32: weight, gradient, two moments, average."""
MUON_BYTES = 24
"""Muon's updates beside that: copies of all matrices of one shape, at most of all parameters."""
RESERVED = 0.08
"""Share of the device kept free: CUDA's context, libraries' workspaces, what the allocator cannot use."""


@dataclass(frozen=True)
class ImageShape:
    """Sizes of one image of a training step: image tokens, masked ones, text tokens with padding, noise samples."""

    tokens: int
    masked: int
    text_tokens: int
    noise_samples: int


def static_bytes(mar: MarConfig, head: HeadConfig, config: LoopConfig, projector: ProjectorConfig | None = None) -> int:
    """Return the bytes of training without images; in tuning and distillation a second, frozen student is there."""
    half, each = 2 if config.precision == "bf16" else 0, STATIC_BYTES
    each += half + (4 + half if isinstance(config, DpoConfig | DistilConfig) else 0)
    each += MUON_BYTES if config.optimizer.name == "muon" else 0
    return (student_parameters(mar, head) + (projector_parameters(mar, projector) if projector else 0)) * each


def unsharded_gradient_bytes(mar: MarConfig, head: HeadConfig) -> int:
    """Return the bytes of a whole fp32 gradient, which fsdp keeps between the micro-batches of a step."""
    return 4 * student_parameters(mar, head)


def activation_bytes(
    mar: MarConfig, head: HeadConfig, shape: ImageShape, precision: Literal["fp32", "bf16"], checkpointing: bool = False
) -> int:
    """Return the bytes that one image's forward pass keeps for the backward pass.

    checkpointing: blocks keep their input alone, and one block at a time computes the rest again.
    """
    width, value = mar.width, 2 if precision == "bf16" else 4
    blocks = {
        "aligner": (mar.aligner_depth, shape.text_tokens, _block(mar, value)),
        "encoder": (mar.encoder_depth, shape.tokens - shape.masked, _block(mar, value)),
        "decoder": (mar.decoder_depth, shape.tokens, _block(mar, value)),
        "cross": (mar.text_depth, shape.tokens if mar.text_self_attention else shape.masked, _cross_block(mar, value)),
        "head": (head.depth, shape.noise_samples * shape.masked, _head_block(head, value)),
    }
    # A norm's input and output, keys and values.
    text_kv = shape.text_tokens * (width * (4 + 3 * value) + _qk_norm(mar, value))
    if checkpointing:
        inputs = dict.fromkeys(blocks, 4 * width) | {"head": value * head.width}
        kept = 1.0 * sum(depth * rows * inputs[name] for name, (depth, rows, _) in blocks.items())
        recomputed = max(rows * each for _, rows, each in blocks.values()) + text_kv
    else:
        kept = sum(depth * rows * each for depth, rows, each in blocks.values()) + mar.text_depth * text_kv
        recomputed = 0.0
    return round(kept + recomputed + _outside_blocks(mar, head, shape, value))


def alignment_bytes(
    mar: MarConfig, projector: ProjectorConfig, shape: ImageShape, precision: Literal["fp32", "bf16"]
) -> int:
    """Return what the projector and its loss keep of one image; blocks keep the states that it reads already."""
    value = 2 if precision == "bf16" else 4
    copies = value * mar.width if precision == "bf16" else 0
    each = copies + 4 * value * projector.width + 2 * 4 * projector.feature_channels + 8  # fp32 vectors, their norms
    return each * aligned_tokens(mar, projector, tokens=shape.tokens, masked=shape.masked)


def row_bytes(
    mar: MarConfig,
    head: HeadConfig,
    config: LoopConfig,
    *,
    tokens: int,
    text_tokens: int,
    checkpointing: bool,
    projector: ProjectorConfig | None = None,
) -> int:
    """Return what a row of a batch, an image or a pair, adds at most: with every token masked, and as fp32 inputs.

    As the backward pass begins, gradients of the head's last block come on top of all activations.
    """
    images = 2 if isinstance(config, DpoConfig) else 1
    learned = config.mask.num_learned(tokens)
    shape = ImageShape(learned, learned, text_tokens, config.noise_samples_per_token)
    inputs = 4 * (text_tokens * mar.text_width + tokens * mar.token_width * (1 + config.noise_samples_per_token))
    kept = activation_bytes(mar, head, shape, config.precision, checkpointing)
    value = 2 if config.precision == "bf16" else 4
    if not checkpointing:  # a block that is computed again takes their place
        kept += config.noise_samples_per_token * learned * _head_gradients(mar, head, value)
    if projector is not None:
        kept += alignment_bytes(mar, projector, shape, config.precision)
        inputs += 4 * tokens * projector.feature_channels
    return images * (kept + inputs)


def rows_that_fit(memory: int, static: int, row: int) -> int:
    """Return how many rows pass through a model together on a device of `memory` bytes; one at least."""
    return max(1, int((memory * (1 - RESERVED) - static) // row))


def _block(mar: MarConfig, value: int) -> float:
    """Return a token's bytes in a transformer block: self-attention, then MLP."""
    return _self_attention(mar, value) + _mlp(mar, value)


def _norm(width: int, value: int) -> float:
    """Return a token's bytes of a norm before a linear layer: its fp32 input, two moments, its output as multiplied."""
    return (4 + value) * width + 8


def _self_attention(mar: MarConfig, value: int) -> float:
    width, dropped = mar.width, 1 if mar.dropout else 0
    return _norm(width, value) + 4 * value * width + 4 * mar.heads + dropped * width + 2 * _qk_norm(mar, value)


def _qk_norm(mar: MarConfig, value: int) -> float:
    """Return a token's bytes of the norm of its queries or keys: the fp32 input, a moment for each head."""
    return 4 * mar.width + 4 * mar.heads if mar.qk_norm else 0.0


def _mlp(mar: MarConfig, value: int) -> float:
    width, inner, dropped = mar.width, mar.width * mar.mlp_ratio, 1 if mar.dropout else 0
    return _norm(width, value) + (2 * value + dropped) * inner + dropped * width


def _cross_block(mar: MarConfig, value: int) -> float:
    """Return a token's bytes in a text block, keys and values of the text aside."""
    width, dropped = mar.width, 1 if mar.dropout else 0
    own = _self_attention(mar, value) if mar.text_self_attention else 0
    own += _norm(width, value) + 2 * value * width + 4 * mar.heads + dropped * width + _qk_norm(mar, value)
    return own + _mlp(mar, value)


def _head_block(head: HeadConfig, value: int) -> float:
    """Return a row's bytes in a block of the head: norm, modulation of three parts, two linear layers."""
    return head.width * (8 + 8 * value) + 8


def _head_gradients(mar: MarConfig, head: HeadConfig, value: int) -> int:
    """Return a row's bytes of gradients in the head's last block: of stream, layer, three modulations, and output."""
    return head.width * (4 + 4 * value) + 2 * mar.token_width * (4 + value)


def _outside_blocks(mar: MarConfig, head: HeadConfig, shape: ImageShape, value: int) -> float:
    """Return the bytes of inputs, projections, norms, time embedding and loss."""
    rows = shape.noise_samples * shape.masked
    text = shape.text_tokens * (mar.text_width * (4 if value == 4 else 6) + 3 * value * mar.width)
    image = shape.tokens * mar.width * (5 * value + 8)
    per_row = TIME_FEATURES * 2 * value + head.width * (12 + 4 * value) + mar.token_width * 12 * 4
    return text + image + rows * per_row
