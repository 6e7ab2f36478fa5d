"""Train the zoo's T5 encoder (transformers) with its CLIP: the images' embeddings are locked, the text's learn.

    python -m lightgen_core.zoo.train_t5 --out FOLDER [--clip zoo:clip] [--steps 600] [--seed 0]

The mean of the T5's states is brought to the CLIP's embedding of the image (locked-image tuning, Zhai et al. 2022).
A reader that asks the states what the caption says of each shape makes them useful word by word, and half of its
captions name more than any image shows, so that they cannot be learned by heart (docs/zoo.md). No meaning that is held
out takes part, nor any part of a caption that says one.
"""

import logging
from collections.abc import Callable, Sequence, Set
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from lightgen_core.encoders.clip import Clip
from lightgen_core.scene.meaning import Meaning
from lightgen_core.scene.vocabulary import COLORS, SHAPES
from lightgen_core.zoo.captioned import Captioned, make_dataset
from lightgen_core.zoo.compound_captions import Group, compound_caption
from lightgen_core.zoo.optimize import argument_parser, optimize, parse_arguments
from lightgen_core.zoo.reader import Reader
from lightgen_core.zoo.tokenizer import END, PAD, make_tokenizer
from lightgen_core.zoo.train_clip import contrastive
from lightgen_core.zoo.training import mirrored, seen_meanings

logger = logging.getLogger(__name__)

WIDTH = 128
BATCH = 192
CONTRASTIVE_WEIGHT = 0.1
"""Low beside the reader's: the contrastive loss is content with states that know each meaning as a whole, and such
states say little about meanings that are held out."""
COMPOUND_TOKENS = 36
"""Tokens that captions without an image are padded to."""


class Towers(nn.Module):
    """The T5, with a pooled projection and a reader for its training only."""

    def __init__(self, vocabulary: int, embedding: int) -> None:
        super().__init__()
        self.t5 = T5EncoderModel(model_config(vocabulary))
        init_relative_positions(self.t5)
        self.pool = nn.Linear(WIDTH, embedding)
        self.reader = Reader(WIDTH)

    def forward(self, captions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states (rows, tokens, WIDTH), mask and unit embeddings of padded ids."""
        mask = captions[:, : int((captions != 0).sum(1).max())] != 0
        ids = captions[:, : mask.shape[1]]
        states = self.t5(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return states, mask, functional.normalize(self.pool(mean).float(), dim=-1)


def model_config(vocabulary: int) -> T5Config:
    """Return the config of a small T5 v1.1 encoder: 0.7M parameters."""
    return T5Config(
        vocab_size=vocabulary,
        d_model=WIDTH,
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
def init_relative_positions(t5: T5EncoderModel, slope: float = 2.0) -> None:
    """Initialise four heads: word before, word after, all before, all after.

    From T5's random start word order stays unused for long: the set of words explains most captions.
    """
    attention = t5.encoder.block[0].layer[0].SelfAttention
    buckets, reach = attention.relative_attention_num_buckets, attention.relative_attention_max_distance
    for distance in sorted(range(-reach, reach + 1), key=abs, reverse=True):  # the nearest of a bucket's is set last
        bucket = attention._relative_position_bucket(torch.tensor(distance), True, buckets, reach)
        before, after = (min(abs(distance - offset), 4) for offset in (-1, 1))
        sides = (0 if distance < 0 else 3, 0 if distance > 0 else 3)
        attention.relative_attention_bias.weight[bucket] = -slope * torch.tensor([before, after, *sides])


Compounds = Callable[[int], tuple[Tensor, Tensor]]
"""Returns so many captions without an image, (rows, tokens) ids, and their targets (rows, shapes, 3)."""


def train(
    towers: Towers, dataset: Captioned, compounds: Compounds, locked: Tensor, scale: Tensor, steps: int, seed: int
) -> None:
    """Train in place against the images' embeddings `locked` (images, embedding); half of the captions compounds."""
    generator = torch.Generator().manual_seed(seed)
    count = BATCH // 2

    def losses(step: int) -> dict[str, Tensor]:
        rows, captions = dataset.sample(count, step % 4 != 0, generator)
        others, other_targets = compounds(BATCH - count)
        captions = torch.cat([functional.pad(captions, (0, others.shape[1] - captions.shape[1])), others])
        targets = torch.cat([dataset.targets[dataset.meaning_ids[rows]], other_targets])
        with sdpa_kernel(SDPBackend.MATH):  # faster than fused attention for so short texts
            states, mask, texts = towers(captions)
        by_reader = towers.reader.loss(states, mask, targets)
        truth = dataset.truth[rows][:, dataset.meaning_ids[rows]]
        by_clip = contrastive(locked[rows], texts[:count], truth, scale)
        loss = by_reader + CONTRASTIVE_WEIGHT * count / BATCH * by_clip
        return {"loss": loss, "reader": by_reader, "contrastive": by_clip}

    optimize(towers, losses, steps, betas=(0.9, 0.98), max_grad_norm=1.0)


def sample_compounds(
    tokenizer: PreTrainedTokenizerBase, seen: Set[Meaning], rng: np.random.Generator, count: int
) -> tuple[Tensor, Tensor]:
    """Sample captions of several groups of objects: (count, COMPOUND_TOKENS) ids and (count, shapes, 3) targets."""
    captions, groups = zip(*(compound_caption(seen, rng) for _ in range(count)), strict=True)
    padding = {"padding": "max_length", "max_length": COMPOUND_TOKENS, "truncation": True}
    ids = tokenizer(list(captions), return_tensors="pt", **padding).input_ids
    return ids, torch.tensor([_targets(each) for each in groups])


def _targets(groups: Sequence[Group]) -> list[tuple[int, int, int]]:
    """Return per shape its count and 0 or 1 + colour; no relation is said."""
    targets = [(0, 0, 0)] * len(SHAPES)
    for group in groups:
        color = 1 + tuple(COLORS).index(group.object.color) if group.object.color else 0
        targets[SHAPES.index(group.object.shape)] = (group.count, color, 0)
    return targets


def main() -> None:
    parser = argument_parser(__doc__, steps=600)
    parser.add_argument("--clip", default="zoo:clip", help="the CLIP whose image embeddings are the target")
    arguments = parse_arguments(parser)
    tokenizer = make_tokenizer()
    assert tokenizer.convert_tokens_to_ids([PAD, END]) == [0, 1]
    # Where only "a star left of a cross" is ever said, the words alone would do and their order be ignored.
    seen = dict.fromkeys(seen_meanings())
    both_ways = [meaning for meaning in seen if mirrored(meaning) in seen]
    dataset = make_dataset(tokenizer, both_ways, arguments.seed)
    clip = Clip.load(arguments.clip)
    locked = torch.from_numpy(clip.embed_images(dataset.images.permute(0, 2, 3, 1)))
    logger.info("%d images of %d meanings", len(locked), len(both_ways))
    towers = Towers(len(tokenizer), clip.width)
    rng = np.random.default_rng(arguments.seed)
    compounds = partial(sample_compounds, tokenizer, frozenset(seen), rng)
    scale = clip.model.logit_scale.exp().clamp(max=100)
    train(towers, dataset, compounds, locked, scale, arguments.steps, arguments.seed)
    towers.t5.half().save_pretrained(arguments.out)
    make_tokenizer().save_pretrained(arguments.out)  # the other remembers the padding of compounds
    logger.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
