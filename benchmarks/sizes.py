"""Sizes of the timed students: the paper's three, and one for a CPU."""

from lightgen_core.config import HeadConfig, MarConfig
from lightgen_core.model.presets import PRESETS

GRID = (16, 16)
NUM_TEXT_TOKENS = 128

SIZES = {
    "mid": (
        MarConfig(width=256, heads=8, encoder_depth=4, decoder_depth=4, text_depth=4),
        HeadConfig(width=384, depth=8),
    ),
    **{
        name: (MarConfig(**PRESETS[name].blocks), HeadConfig(**PRESETS[name].head))
        for name in ("base", "large", "huge")
    },
}
"""mid: a quarter of large in every width, and in depth but for the aligner and the head."""
