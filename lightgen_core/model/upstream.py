"""The released LightGen weights, brought into this student without loss.

`load_upstream` takes the state dict of the released ``fluid_base``, ``fluid_large`` or ``fluid_huge`` model and reads
every size off its tensors, except the number of attention heads, which leaves no trace in them (`HEADS`). Nothing is
guessed: a tensor that is missing, left over or of the wrong shape is an error naming it.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.head import TokenDenoiser
from lightgen_core.model.mar import Mar, Student

HEADS = {768: 12, 1024: 16, 1280: 16}
"""Attention heads of the released models by their width: base, large, huge."""

MAR_NAMES = (
    (r"^null_text$", "fake_latent"),
    (r"^aligner\.up", "text_emb.text_proj.linear_1"),
    (r"^aligner\.down", "text_emb.text_proj.linear_2"),
    (r"^aligner\.blocks", "text_emb.text_aligner"),
    (r"^aligner\.norm", "text_emb.text_aligner_norm"),
    (r"^token_in", "z_proj"),
    (r"^token_norm", "z_proj_ln"),
    (r"^(en|de)coder_positions$", r"\1coder_pos_embed_learned"),
    (r"^(en|de)coder\.", r"\1coder_blocks."),
    (r"^decoder_in", "decoder_embed"),
    (r"^cross_in", "last_embed"),
    (r"^cross_positions$", "last_pos_embed_learned"),
    (r"^cross_blocks\.", "cross_attn_blocks."),
    (r"\.query_norm\.", ".normq."),
    (r"\.text_norm\.", ".normkv."),
    (r"\.attention\.query\.", ".attn.query_linear."),
    (r"\.attention\.key_value\.", ".attn.kv."),
    (r"\.attention\.norm\.", ".norm1."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.mlp\.norm\.", ".norm2."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
)
"""Our name of a parameter to the released one: every pattern is applied, in this order."""

HEAD_NAMES = (
    (r"^time_up", "time_embed.mlp.0"),
    (r"^time_down", "time_embed.mlp.2"),
    (r"^condition", "cond_embed"),
    (r"^token_in", "input_proj"),
    (r"^blocks\.(\d+)\.norm", r"res_blocks.\1.in_ln"),
    (r"^blocks\.(\d+)\.up", r"res_blocks.\1.mlp.0"),
    (r"^blocks\.(\d+)\.down", r"res_blocks.\1.mlp.2"),
    (r"^blocks\.(\d+)\.modulation", r"res_blocks.\1.adaLN_modulation.1"),
    (r"^modulation", "final_layer.adaLN_modulation.1"),
    (r"^out", "final_layer.linear"),
    (r"^", "diffloss.net."),
)


class UpstreamError(ValueError):
    """A file or state dict that is not a released LightGen model; the message names the tensor."""


def load_upstream(
    state_dict: Mapping[str, Tensor], num_heads: int = 16, attend_to_padding: bool = False
) -> tuple[Mar, TokenDenoiser]:
    """Build the student of a released state dict, fp32 on the CPU, in evaluation mode.

    Raises UpstreamError where a tensor is missing, left over or does not fit. The released model was trained to attend
    to padding: call it with ``text_mask`` None, or set ``attend_to_padding`` to ignore every mask.
    """
    mar_config, head_config = _configs(state_dict, num_heads, attend_to_padding)
    with torch.device("meta"):
        mar = Mar(mar_config)
        head = TokenDenoiser(head_config, mar_config.token_width, mar_config.width)
    used = _fill(mar, MAR_NAMES, state_dict) | _fill(head, HEAD_NAMES, state_dict)
    left_over = sorted(set(state_dict) - used)
    if left_over:
        raise UpstreamError(
            f"{_listed(left_over)}: not part of a released model with {mar_config.encoder_depth} encoder, "
            f"{mar_config.decoder_depth} decoder, {mar_config.text_depth} text and {head_config.depth} head blocks. "
            "Is this another model, or one changed since?"
        )
    return mar.eval(), head.eval()


def upstream_student(state_dict: Mapping[str, Tensor], num_heads: int | None = None) -> Student:
    """Build a `Student` from a released state dict; it attends to padding, as it was trained to.

    Raises UpstreamError as `load_upstream`, and without ``num_heads`` for a width that no released model has.
    """
    width = _shape(state_dict, "z_proj.weight", 2)[0]
    if not num_heads and width not in HEADS:
        raise UpstreamError(
            f"z_proj.weight has width {width}; the released models have {', '.join(map(str, HEADS))}. The number of "
            "attention heads leaves no trace in the tensors: give it (num_heads)"
        )
    mar, head = load_upstream(state_dict, num_heads or HEADS[width], attend_to_padding=True)
    with torch.device("meta"):
        student = Student(mar.config, head.config)
    student.mar, student.head = mar, head
    return student.eval()


def _configs(state_dict: Mapping[str, Tensor], num_heads: int, attend_to_padding: bool) -> tuple[MarConfig, HeadConfig]:
    """Read sizes off the tensors."""
    width, token_width = _shape(state_dict, "z_proj.weight", 2)
    places = _shape(state_dict, "encoder_pos_embed_learned", 3)[1]
    side = round(places**0.5)
    if side * side != places:
        raise UpstreamError(f"encoder_pos_embed_learned has {places} places, which make no square grid")
    if width % num_heads:
        raise UpstreamError(f"z_proj.weight: width {width} is not a multiple of {num_heads} heads: pass num_heads")
    mar = MarConfig(
        token_width=token_width,
        text_width=_shape(state_dict, "text_emb.text_proj.linear_1.weight", 2)[1],
        width=width,
        heads=num_heads,
        mlp_ratio=_shape(state_dict, "cross_attn_blocks.0.mlp.fc1.weight", 2)[0] / width,
        aligner_depth=_depth(state_dict, "text_emb.text_aligner."),
        encoder_depth=_depth(state_dict, "encoder_blocks."),
        decoder_depth=_depth(state_dict, "decoder_blocks."),
        text_depth=_depth(state_dict, "cross_attn_blocks."),
        position_grid=side,
        attend_to_padding=attend_to_padding,
        released_positions=True,
    )
    head = HeadConfig(
        width=_shape(state_dict, "diffloss.net.input_proj.weight", 2)[0],
        depth=_depth(state_dict, "diffloss.net.res_blocks."),
        objective="ddpm",
    )
    return mar, head


def _shape(state_dict: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state_dict:
        raise UpstreamError(
            f"{name} is missing: this is not the state dict of a released model. "
            f"Found {_listed(sorted(state_dict)) or 'no tensor'}"
        )
    shape = tuple(state_dict[name].shape)
    if len(shape) != dimensions:
        raise UpstreamError(f"{name} has shape {shape}: expected {dimensions} dimensions")
    return shape


def _depth(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of blocks under a prefix: one more than the largest index."""
    indices = [
        int(name[len(prefix) :].split(".")[0]) for name in state_dict if re.match(re.escape(prefix) + r"\d+\.", name)
    ]
    return max(indices, default=-1) + 1


def _fill(module: nn.Module, names: tuple[tuple[str, str], ...], state_dict: Mapping[str, Tensor]) -> set[str]:
    """Copy a module's parameters out of the state dict; return the names it took."""
    own = {name: name for name, _ in module.named_parameters()}
    for pattern, replacement in names:
        own = {name: re.sub(pattern, replacement, theirs) for name, theirs in own.items()}
    missing = [theirs for theirs in own.values() if theirs not in state_dict]
    if missing:
        raise UpstreamError(f"{_listed(missing)} missing: the file is cut, or not of a released model")
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        tensor, expected = state_dict[own[name]], tuple(parameter.shape)
        if "." not in name:
            # Learned vectors stand at the top of the model, and have three axes in the released one.
            expected = (1,) * (3 - len(expected)) + expected
        if tuple(tensor.shape) != expected:
            raise UpstreamError(f"{own[name]} has shape {tuple(tensor.shape)}: expected {expected}")
        with torch.no_grad():
            parameter.copy_(tensor.view(parameter.shape))
    return set(own.values())


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
