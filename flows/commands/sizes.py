"""Sizes that follow from a recipe before anything is loaded: pictures, latents, tokens, vectors. Free of torch."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.commands.known_models import known
from flows.errors import UnknownModelSize
from lightgen_core.encoders.model_ref import parse_model_ref
from tasks.config.recipe import Recipe

NATIVE = 1024
"""Side of a picture where neither recipe nor teacher says it, px: what today's pipelines draw by default."""


@dataclass(frozen=True)
class Size:
    """Pictures of one size: px, and what they are as latents and tokens."""

    height: int
    width: int
    channels: int
    stride: int
    patch: int

    @property
    def tokens(self) -> int:
        """Image tokens."""
        side = self.stride * self.patch
        return (self.height // side) * (self.width // side)

    @property
    def latent_bytes(self) -> int:
        """Bytes of the stored latents, two for each value."""
        return 2 * self.channels * (self.height // self.stride) * (self.width // self.stride)


def picture_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width of the teacher's pictures, px."""
    if recipe.synthesis.teacher == "scene":
        return recipe.world.image_size, recipe.world.image_size
    section = getattr(recipe.synthesis, recipe.synthesis.teacher)
    if side := getattr(section, "size", None):
        return side, side
    return getattr(section, "height", None) or NATIVE, getattr(section, "width", None) or NATIVE


def token_sizes(recipe: Recipe) -> dict[int | None, Size]:
    """The sizes in which pictures are made into tokens, by the recipe's name for them (None: as they are)."""
    tokens, (height, width) = recipe.tokens, picture_size(recipe)
    channels = recipe.pretrain.model.token_width // tokens.patch**2
    sides: dict[int | None, tuple[int, int]] = {size: (size, size) for size in tokens.sizes} or {None: (height, width)}
    return {name: Size(*side, channels, codec_stride(tokens.codec), tokens.patch) for name, side in sides.items()}


def codec_stride(reference: str) -> int:
    """Pixels along a side of one latent: from the codec's configuration where it is here, else from what is known.

    Raises:
        UnknownSize: neither.
    """
    config = _config(reference, "config.json")
    if stages := config.get("block_out_channels") or config.get("encoder_block_out_channels"):
        return 2 ** (len(stages) - 1)
    if (about := known(parse_model_ref(reference))) and about.stride:
        return about.stride
    raise UnknownModelSize(
        f"the stride of {reference} is not known before it is here; download it first, for example with "
        f"`hf download {parse_model_ref(reference).repository}`"
    )


def embedding_width(reference: str) -> int | None:
    """Values of a CLIP embedding; None: not known before the model is here."""
    if width := _config(reference, "open_clip_config.json").get("model_cfg", {}).get("embed_dim"):
        return int(width)
    package = importlib.util.find_spec("open_clip")
    architecture = parse_model_ref(reference).repository.rpartition("/")[2], reference.partition("/")[0]
    for name in architecture:
        listed = Path(package.origin).parent / "model_configs" / f"{name}.json" if package and package.origin else None
        if listed and listed.is_file():
            return int(json.loads(listed.read_text())["embed_dim"])
    return None


def _config(reference: str, name: str) -> dict[str, Any]:
    """A model's configuration, empty where it is not on this machine."""
    here = parse_model_ref(reference).here()
    if here is None or not (here / name).is_file():
        return {}
    return json.loads((here / name).read_text())
