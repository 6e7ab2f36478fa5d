"""Train the zoo's CLIP (open_clip) on captioned images. No meaning that is held out takes part.

python -m lightgen_core.zoo.train_clip --out FOLDER [--steps 1000] [--seed 0] [--threads 1]
"""

import argparse
import copy
import logging
import math
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightgen_core.zoo.captioned import WORDS, Captioned, make_dataset
from lightgen_core.zoo.muon import KernelMuon, split_parameters
from lightgen_core.zoo.tokenizer import make_tokenizer
from lightgen_core.zoo.training import learning_rate, seen_meanings

logger = logging.getLogger(__name__)

PREPROCESSING = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
"""Preprocessing saved with the model: a square of values in -1..1."""

EMBEDDING = 64
BATCH = 192
MUON_RATE, ADAM_RATE = 0.02, 2e-3


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
            "context_length": WORDS,
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
    matrices, rest = split_parameters(model)
    adamw = torch.optim.AdamW(rest, ADAM_RATE, betas=(0.9, 0.98), weight_decay=0)
    optimizers = {MUON_RATE: KernelMuon(matrices, MUON_RATE), ADAM_RATE: adamw}
    started = time.monotonic()
    for step in range(steps):
        for peak, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, steps)
        rows, captions = dataset.draw(BATCH, step % 4 != 0, generator)
        # Fused attention is slower than plain matrix products here: its bf16 backward on CPU is.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            images = model.encode_image(dataset.images[rows] / 127.5 - 1, normalize=True).float()
            texts = model.encode_text(captions, normalize=True).float()
        truth = dataset.truth[rows][:, dataset.meaning_ids[rows]]
        loss = contrastive(images, texts, truth, model.logit_scale.exp().clamp(max=100))
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            logger.info("step %d of %d, %.0f s, loss %.3f", step, steps, time.monotonic() - started, loss.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the configuration, weights and tokenizer")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = make_tokenizer()
    dataset = make_dataset(tokenizer, seen_meanings(), arguments.seed)
    logger.info("%d pictures of %d meanings", len(dataset.images), len(dataset.captions))
    model = make_model(len(tokenizer))
    train(model, dataset, arguments.steps, arguments.seed)
    save_for_hf(model.half(), tokenizer, model_config(len(tokenizer)), str(arguments.out), safe_serialization=True)
    logger.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
