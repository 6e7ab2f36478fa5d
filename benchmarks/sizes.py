"""Sizes of the timed students: the paper's three, and one for a CPU."""

from lightgen_core.config import HeadConfig, MarConfig

GRID = (16, 16)
NUM_TEXT_TOKENS = 128

SIZES = {
    "mid": (
        MarConfig(width=256, heads=8, encoder_depth=4, decoder_depth=4, text_depth=4),
        HeadConfig(width=384, depth=8),
    ),
    "base": (MarConfig(width=768, heads=12, encoder_depth=12, decoder_depth=12, text_depth=12), HeadConfig()),
    "large": (MarConfig(), HeadConfig()),
    "huge": (MarConfig(width=1280, encoder_depth=20, decoder_depth=20, text_depth=20), HeadConfig()),
}
"""mid: a quarter of large in every width, and in depth but for the aligner and the head."""
