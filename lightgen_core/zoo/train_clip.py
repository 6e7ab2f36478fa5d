"""Train the zoo's CLIP (open_clip) on captioned images. No meaning that is held out takes part.

python -m lightgen_core.zoo.train_clip --out FOLDER [--steps 1000] [--seed 0] [--threads 1]
"""

import copy
import logging
import math
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightgen_core.zoo.captioned import CAPTION_TOKENS, Captioned, make_dataset
from lightgen_core.zoo.optimize import argument_parser, optimize, parse_arguments
from lightgen_core.zoo.tokenizer import make_tokenizer
from lightgen_core.zoo.training import seen_meanings

logger = logging.getLogger(__name__)

PREPROCESSING = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
"""Preprocessing saved with the model: a square of values in -1..1."""

EMBEDDING = 64
BATCH = 192


def model_config(vocabulary: int) -> dict[str, Any]:
    """Return open_clip's model configuration, with the tokenizer in its folder."""
    return {
        "embed_dim": EMBEDDING,
        "vision_cfg": {
            "image_size": 48,
            "patch_size": 8,
            "width": 96,
            "layers": 3,
            "head_width": 32,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CAPTION_TOKENS,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "lightgen-scene",
            "width": 96,
            "heads": 3,
            "layers": 3,
            "pool_type": "eos",
            "eos_id": 1,
        },
    }


def make_model(vocabulary: int) -> open_clip.model.CLIP:
    """Build a CLIP of 0.7M parameters."""
    model = open_clip.model.CLIP(**copy.deepcopy(model_config(vocabulary)))
    open_clip.model.set_model_preprocess_cfg(model, PREPROCESSING)
    return model


def contrastive(images: Tensor, texts: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    """Return the contrastive loss of true pairs against false ones.

    Each true pair meets every false pair of its row and column; other true pairs are left out of the sum.

    images: (rows, d) and texts: (columns, d), unit vectors; truth: (rows, columns) bool, one true in each.
    """
    logits = scale * images @ texts.T
    losses = []
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        against = scores.masked_fill(true, -math.inf).logsumexp(1, keepdim=True)
        losses.append(((functional.softplus(against - scores) * true).sum(1) / true.sum(1)).mean())
    return (losses[0] + losses[1]) / 2


def train(model: open_clip.model.CLIP, dataset: Captioned, steps: int, seed: int) -> None:
    """Train in place, in bf16 where autocast allows; three batches in four are near misses."""
    generator = torch.Generator().manual_seed(seed)

    def losses(step: int) -> dict[str, Tensor]:
        rows, captions = dataset.sample(BATCH, step % 4 != 0, generator)
        # Fused attention is slower than plain matrix products here: its bf16 backward on CPU is.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            images = model.encode_image(dataset.images[rows] / 127.5 - 1, normalize=True).float()
            texts = model.encode_text(captions, normalize=True).float()
        truth = dataset.truth[rows][:, dataset.meaning_ids[rows]]
        return {"loss": contrastive(images, texts, truth, model.logit_scale.exp().clamp(max=100))}

    optimize(model, losses, steps, betas=(0.9, 0.98), max_grad_norm=1.0)


def main() -> None:
    arguments = parse_arguments(argument_parser(__doc__, steps=1000))
    tokenizer = make_tokenizer()
    dataset = make_dataset(tokenizer, seen_meanings(), arguments.seed)
    logger.info("%d images of %d meanings", len(dataset.images), len(dataset.captions))
    model = make_model(len(tokenizer))
    train(model, dataset, arguments.steps, arguments.seed)
    save_for_hf(model.half(), tokenizer, model_config(len(tokenizer)), str(arguments.out), safe_serialization=True)
    logger.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
