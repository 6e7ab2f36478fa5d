"""Train the zoo's CLIP (open_clip) and T5 encoder (transformers) together.

    python -m lightgen_core.zoo.train_clip --out FOLDER [--steps 1100] [--seed 0] [--threads 1]

One image tower answers to two texts: CLIP's own tower and the mean of the T5's states. A reader that asks the T5's
states what the caption says of each shape makes them useful word by word. No meaning that is held out takes part.
"""

import argparse
import copy
import logging
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lightgen_core.config import World
from lightgen_core.scene.meaning import Meaning
from lightgen_core.zoo.captioned import Captioned, make_captioned, phrased
from lightgen_core.zoo.muon import Muon, split_parameters
from lightgen_core.zoo.reader import Reader
from lightgen_core.zoo.teaching import full_world, learning_rate, seen_meanings
from lightgen_core.zoo.tokenizer import END, PAD, make_tokenizer

log = logging.getLogger("lightgen.zoo.clip")

WORDS = 24
"""Context length of CLIP's text tower; the grammar's longest caption has 22 tokens."""

PHRASINGS = 48
"""Phrasings kept of each meaning."""

PREPROCESSING = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
"""Saved with the model; any picture becomes a square of its image size with values in -1..1."""

EMBEDDING, T5_WIDTH = 64, 128
BATCH = 192
ALONE = 250
"""Steps in which the T5 learns with its reader alone. Otherwise the easier contrastive loss leads, and who has which
colour is learned several times later."""

READER_WEIGHT = 4.0
MUON_RATE, ADAM_RATE = 0.02, 2e-3


class Towers(nn.Module):
    """CLIP, the T5 and what joins them while they learn."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.clip = open_clip.model.CLIP(**copy.deepcopy(clip_config(vocabulary)))
        open_clip.model.set_model_preprocess_cfg(self.clip, PREPROCESSING)
        self.t5 = T5EncoderModel(t5_config(vocabulary))
        look_around(self.t5)
        self.pool = nn.Linear(T5_WIDTH, EMBEDDING)
        self.reader = Reader(T5_WIDTH)

    def read(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """The T5's states (rows, words, width) of token ids (rows, words), and the mask of their words."""
        mask = captions[:, : int((captions != 0).sum(1).max())] != 0
        states = self.t5(input_ids=captions[:, : mask.shape[1]], attention_mask=mask.long()).last_hidden_state
        return states.float(), mask

    def embed(self, images: Tensor, captions: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings (rows, EMBEDDING) of the pictures, of CLIP's texts and of the T5's."""
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        image = self.clip.encode_image(images, normalize=True)
        text = self.clip.encode_text(captions, normalize=True)
        return image.float(), text.float(), functional.normalize(self.pool(mean).float(), dim=-1)


def clip_config(vocabulary: int) -> dict[str, object]:
    """open_clip's model configuration. `hf_tokenizer_name` says that the folder holds the tokenizer."""
    return {
        "embed_dim": EMBEDDING,
        "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 96, "layers": 3, "head_width": 32, "pool_type": "avg"},
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
    }  # fmt: skip


def t5_config(vocabulary: int) -> T5Config:
    return T5Config(
        vocab_size=vocabulary,
        d_model=T5_WIDTH,
        d_kv=32,
        d_ff=256,
        num_layers=4,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        use_cache=False,
        is_encoder_decoder=False,
    )


@torch.no_grad()
def look_around(t5: T5EncoderModel, slope: float = 2.0) -> None:
    """Start the T5's four heads as: the word before, the word after, all words before, all words after.

    From T5's random start word order stays unused for long: the sum of the words explains most captions.
    """
    attention = t5.encoder.block[0].layer[0].SelfAttention
    buckets, reach = attention.relative_attention_num_buckets, attention.relative_attention_max_distance
    for distance in sorted(range(-reach, reach + 1), key=abs, reverse=True):  # the nearest of a bucket's is set last
        bucket = attention._relative_position_bucket(torch.tensor(distance), True, buckets, reach)
        before, after = (min(abs(distance - place), 4) for place in (-1, 1))
        sides = (0 if distance < 0 else 3, 0 if distance > 0 else 3)
        attention.relative_attention_bias.weight[bucket] = -slope * torch.tensor([before, after, *sides])


def make_lesson(
    tokenizer: PreTrainedTokenizerFast, meanings: list[Meaning], seed: int, scale: float = 1.0, phrasings: int = PHRASINGS
) -> Captioned:
    """Half composed as in the default world, half of other layouts and words; `scale` times 30,000 pictures."""
    rng = np.random.default_rng(seed)
    texts = [caption for meaning in meanings for caption in phrased(meaning, phrasings, rng)]
    ids = tokenizer(texts, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt").input_ids
    plan = [(World(), 14_000), (full_world(), 9_000), (full_world(layout="free"), 3_500), (full_world(layout="grid"), 3_500)]
    plan = [(world, int(count * scale)) for world, count in plan]
    return make_captioned(plan, meanings, ids.view(len(meanings), phrasings, WORDS), rng)


def contrastive(images: Tensor, texts: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    """Each true pair against every false pair of its row and its column; other true pairs are left out of the sum."""
    logits = scale * images @ texts.T
    losses = []
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        against = scores.masked_fill(true, -math.inf).logsumexp(1, keepdim=True)
        losses.append(((functional.softplus(against - scores) * true).sum(1) / true.sum(1)).mean())
    return (losses[0] + losses[1]) / 2


def losses(towers: Towers, lesson: Captioned, rows: Tensor, captions: Tensor, together: bool) -> dict[str, Tensor]:
    """What is learned from these rows: the T5 with its reader, and from then on all three towers."""
    # Fused attention is slower than plain matrix products here: its bf16 backward on CPU is.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        states, mask = towers.read(captions)
        if together:
            image, text, t5 = towers.embed(lesson.images[rows] / 127.5 - 1, captions, states, mask)
    found = {"reader": READER_WEIGHT * towers.reader.loss(states, mask, lesson.answers[lesson.said[rows]])}
    if together:
        truth = lesson.truth[rows][:, lesson.said[rows]]
        scale = towers.clip.logit_scale.exp().clamp(max=100)
        found |= {"CLIP": contrastive(image, text, truth, scale), "T5": contrastive(image, t5, truth, scale)}
    return found


def train(towers: Towers, lesson: Captioned, steps: int, seed: int, alone: int = ALONE) -> None:
    """Train in place for `steps`, the T5 and its reader alone for the first `alone`; bf16 where autocast allows."""
    generator = torch.Generator().manual_seed(seed)
    matrices, rest = split_parameters(towers)
    optimizers = [Muon(matrices, MUON_RATE), torch.optim.AdamW(rest, ADAM_RATE, betas=(0.9, 0.98), weight_decay=0)]
    peaks = [MUON_RATE, ADAM_RATE]
    started = time.monotonic()
    for step in range(steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, steps)
        rows, captions = lesson.draw(BATCH, step % 4 != 0, generator)
        found = losses(towers, lesson, rows, captions, step >= alone)
        towers.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            told = ", ".join(f"{name} {loss.item():.3f}" for name, loss in found.items())
            log.info("step %d of %d, %.0f s, losses: %s", step, steps, time.monotonic() - started, told)


def save(towers: Towers, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """`folder`/clip and `folder`/t5, each as its library saves it, in fp16."""
    towers.half()
    save_for_hf(towers.clip, tokenizer, clip_config(len(tokenizer)), folder / "clip", safe_serialization=True)
    towers.t5.save_pretrained(folder / "t5")
    tokenizer.save_pretrained(folder / "t5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for clip/ and t5/")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = make_tokenizer()
    assert tokenizer.convert_tokens_to_ids([PAD, END]) == [0, 1]
    lesson = make_lesson(tokenizer, seen_meanings(), arguments.seed)
    log.info("%d pictures of %d meanings", len(lesson.images), len(lesson.captions))
    towers = Towers(len(tokenizer))
    train(towers, lesson, arguments.steps, arguments.seed)
    save(towers.eval(), tokenizer, arguments.out)
    log.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
