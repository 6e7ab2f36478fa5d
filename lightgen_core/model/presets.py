"""Named sizes of the student: fields of its blocks and of its head."""

from typing import Any, Literal, NamedTuple, get_args

PresetName = Literal["tiny", "small", "base", "large", "huge"]


class Preset(NamedTuple):
    """Fields of `BlocksConfig` and `HeadConfig` that differ from their defaults."""

    blocks: dict[str, Any]
    head: dict[str, Any]


_SCENE = {"dropout": 0.0, "aligner_depth": 2, "text_self_attention": True}

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        {"width": 96, "heads": 4, "encoder_depth": 1, "decoder_depth": 1, "text_depth": 3, **_SCENE},
        {"width": 128, "depth": 3, "objective": "v"},
    ),
    "small": Preset(
        {"width": 192, "heads": 6, "encoder_depth": 2, "decoder_depth": 2, "text_depth": 4, **_SCENE},
        {"width": 256, "depth": 3, "objective": "v"},
    ),
    "base": Preset({"width": 768, "heads": 12, "encoder_depth": 12, "decoder_depth": 12, "text_depth": 12}, {}),
    "large": Preset({}, {}),
    "huge": Preset({"width": 1280, "heads": 16, "encoder_depth": 20, "decoder_depth": 20, "text_depth": 20}, {}),
}
"""tiny: the demo's, and a text aligner (1.3 M parameters); small: scene-64's; base, large (0.7B), huge: the paper's."""

assert tuple(PRESETS) == get_args(PresetName)
