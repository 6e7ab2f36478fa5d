"""Train the heads of the general CLIP: EfficientNet-Lite1 and MiniLM stay as they are.

    python -m lightgen_core.zoo.train_general_clip --out FOLDER --pictures zoo:emoji-all/train ...

Pooled features of all images and captions are computed once; the heads see them with dropout and noise. Of three
captions in ten only the words before the last comma are used, so that a thing without its style is known too.
"""

import json
import logging

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.packaged import EFFICIENTNETS, MINILM
from lightgen_core.encoders.two_towers import CONFIG, HEADS, TwoTowers, TwoTowersConfig, tokenizer
from lightgen_core.zoo.optimize import argument_parser, optimize, parse_arguments
from lightgen_core.zoo.training_images import load_captioned

logger = logging.getLogger(__name__)

TOWER = "tf_efficientnet_lite1"
"""Not Lite0, in whose space students are judged."""

CONFIG_OF_HEADS = TwoTowersConfig(
    image_tower=TOWER,
    image_sha256=EFFICIENTNETS[TOWER].sha256,
    text_sha256=MINILM.sha256,
    image_size=128,
    width=256,
    hidden=640,
    max_text_tokens=32,
)
BATCH, SHORTENED, DROPOUT, NOISE = 512, 0.3, 0.2, 0.05


@torch.inference_mode()
def image_features(model: TwoTowers, images: np.ndarray) -> Tensor:
    """Return pooled features (n, 1280) of images (n, side, side, 3) as the product preprocesses them."""
    clip = Clip(model, tokenizer(CONFIG_OF_HEADS), "cpu")
    batches = np.array_split(images, max(1, len(images) // 64))
    return torch.cat([model.visual.trunk(clip.preprocess(torch.from_numpy(batch))) for batch in batches])


@torch.inference_mode()
def text_features(model: TwoTowers, captions: list[str]) -> Tensor:
    """Return pooled states (n, 384) of captions."""
    tokens = tokenizer(CONFIG_OF_HEADS)(captions)
    return torch.cat([model.pool_text(batch) for batch in tokens.split(64)])


def train(heads: nn.ModuleDict, images: Tensor, texts: Tensor, short: Tensor, ids: Tensor, steps: int) -> None:
    """Train in place. texts, short: of each image's caption and its shorter form; ids: equal for equal captions."""
    generator, scale = torch.Generator().manual_seed(0), nn.Parameter(torch.tensor(2.5))
    heads.requires_grad_(True)  # `Clip` froze the whole model
    heads.register_parameter("scale", scale)

    def losses(step: int) -> dict[str, Tensor]:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        kept = torch.rand(BATCH, images.shape[1], generator=generator) > DROPOUT
        shortened = torch.rand(BATCH, 1, generator=generator) < SHORTENED
        text = torch.where(shortened, short[rows], texts[rows])
        noise = torch.randn(text.shape, generator=generator) * text.norm(dim=1, keepdim=True) / text.shape[1] ** 0.5
        image = functional.normalize(heads["image"](images[rows] * kept / (1 - DROPOUT)), dim=1)
        text = functional.normalize(heads["text"](text + NOISE * noise), dim=1)
        logits = scale.exp().clamp(max=100) * image @ text.T
        same = (ids[rows][:, None] == ids[rows]).float()
        target = same / same.sum(1, keepdim=True)
        return {"loss": functional.cross_entropy(logits, target) / 2 + functional.cross_entropy(logits.T, target) / 2}

    optimize(heads, losses, steps, betas=(0.9, 0.98), max_grad_norm=1.0)
    del heads.scale


def main() -> None:
    parser = argument_parser(__doc__, steps=1500)
    parser.add_argument("--pictures", nargs="+", metavar="SET", required=True, help="sets of captioned images")
    arguments = parse_arguments(parser)
    loaded = [
        load_captioned(location, CONFIG_OF_HEADS.image_size, arguments.threads) for location in arguments.pictures
    ]
    decoded = np.concatenate([images for images, _ in loaded])
    captions = [caption for _, texts in loaded for caption in texts]
    model = TwoTowers(CONFIG_OF_HEADS)
    unique, ids = np.unique(captions, return_inverse=True)
    texts = text_features(model, unique.tolist())[ids]
    short = text_features(model, [caption.rpartition(",")[0] or caption for caption in unique])[ids]
    images = image_features(model, decoded)
    logger.info("%d images, %d captions", len(decoded), len(unique))
    train(model.heads(), images, texts, short, torch.from_numpy(ids), arguments.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in model.heads().state_dict().items()}, arguments.out / HEADS)
    (arguments.out / CONFIG).write_text(json.dumps(CONFIG_OF_HEADS.model_dump(), indent=1))
    logger.info("saved %s", arguments.out)


if __name__ == "__main__":
    main()
