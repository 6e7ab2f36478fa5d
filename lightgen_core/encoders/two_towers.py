"""A CLIP of two frozen towers out of packages, EfficientNet and MiniLM, under heads that were trained here.

A folder of it holds `two_towers.json` (names and sha256 of the towers, the image side) and `heads.safetensors`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightgen_core.config import Positive, Section
from lightgen_core.encoders.packaged import EFFICIENTNETS, MINILM, PackageMissing, efficientnet

CONFIG = "two_towers.json"
HEADS = "heads.safetensors"
IMAGE_WIDTH, TEXT_WIDTH = 1280, 384


class TwoTowersConfig(Section):
    """The towers, by timm's name and by the sha256 of their weights, and the sizes of heads and images."""

    image_tower: str
    image_sha256: str
    text_sha256: str
    image_size: Positive
    width: Positive
    hidden: Positive
    max_text_tokens: Positive


class TwoTowers(nn.Module):
    """Embed preprocessed images and tokenized captions, as open_clip's models do."""

    def __init__(self, config: TwoTowersConfig) -> None:
        """Load the towers; heads are new. Raises PackageMissing: a tower is not here, or another than the heads'."""
        from transformers import AutoModel

        super().__init__()
        found = {"image": EFFICIENTNETS[config.image_tower].sha256, "text": MINILM.sha256}
        for tower, expected in (("image", config.image_sha256), ("text", config.text_sha256)):
            if found[tower] != expected:
                raise PackageMissing(f"the heads were trained on another {tower} tower; train them again")
        self.visual = _ImageTower(config)
        self.text = AutoModel.from_pretrained(MINILM.file().parent).eval()
        self.text_head = _head(TEXT_WIDTH, config)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return vectors (n, width) of images (n, 3, side, side)."""
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return vectors (n, width) of token ids (n, length), padded with zeros."""
        return self.text_head(self.pool_text(tokens))

    def pool_text(self, tokens: Tensor) -> Tensor:
        """Return the mean states (n, 384) of token ids (n, length), padded with zeros."""
        mask = tokens != 0
        states = self.text(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def heads(self) -> nn.ModuleDict:
        """Return what was trained."""
        return nn.ModuleDict({"image": self.visual.head, "text": self.text_head})


class _ImageTower(nn.Module):
    def __init__(self, config: TwoTowersConfig) -> None:
        super().__init__()
        self.trunk = efficientnet(config.image_tower)
        self.head = _head(IMAGE_WIDTH, config)
        scale = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
        self.preprocess_cfg = {"size": config.image_size, "interpolation": "bicubic", **scale}

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


def _head(width: int, config: TwoTowersConfig) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.width))


def load_two_towers(folder: Path) -> tuple[TwoTowers, Any]:
    """Return the model of a folder and its tokenizer: captions to token ids (n, length), padded with zeros."""
    config = TwoTowersConfig.model_validate(json.loads((folder / CONFIG).read_bytes()))
    model = TwoTowers(config)
    model.heads().load_state_dict(load_file(folder / HEADS))
    return model, tokenizer(config)


def tokenizer(config: TwoTowersConfig) -> Any:
    """Return the text tower's tokenizer, a function of captions."""
    from transformers import AutoTokenizer

    tokenize = AutoTokenizer.from_pretrained(MINILM.file().parent)

    def call(captions: list[str]) -> Tensor:
        options: dict[str, Any] = {"padding": "max_length", "truncation": True, "max_length": config.max_text_tokens}
        return torch.tensor(tokenize(captions, **options)["input_ids"])

    return call
