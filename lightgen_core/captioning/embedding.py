"""Embed captions as unit vectors."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightgen_core.captioning.config import CaptionEmbedding
from lightgen_core.dedup.search import Vectors

if TYPE_CHECKING:
    import torch

Embed = Callable[[Sequence[str]], Vectors]
"""Captions (n,) to vectors (n, width), float32 of unit norm."""

_BLOCK = 4096


def caption_embedder(config: CaptionEmbedding, device: "torch.device") -> Embed:
    """Load CLIP's text tower, or a text encoder whose states are averaged."""
    from lightgen_core.encoders.clip import Clip
    from lightgen_core.encoders.text_encoder import TextEncoder

    if config.kind == "clip":
        embed = Clip.load(config.model, device=device).embed_texts
    else:
        encoder = TextEncoder.load(config.model, device=device)

        def embed(captions: list[str]) -> Vectors:
            means = np.stack([states.mean(axis=0) for states in encoder.encode(captions)])
            return means / np.linalg.norm(means, axis=1, keepdims=True)

    def in_blocks(captions: Sequence[str]) -> Vectors:
        starts = range(0, len(captions), _BLOCK)
        return np.concatenate([embed(list(captions[start : start + _BLOCK])) for start in starts])

    return in_blocks
