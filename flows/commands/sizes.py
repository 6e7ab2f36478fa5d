"""Image, latent, token and embedding sizes of a recipe, without torch."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.commands.known_models import known_model
from flows.errors import UnknownModelSize
from lightgen_core.encoders.model_ref import parse_model_ref
from tasks.config.recipe import Recipe

DEFAULT_SIDE = 1024
"""Side of an image, px, if neither recipe nor teacher sets it; current pipelines generate this."""


@dataclass(frozen=True)
class Size:
    """Image size in px, with its latents and tokens."""

    height: int
    width: int
    channels: int
    stride: int
    patch: int

    @property
    def tokens(self) -> int:
        """Image tokens of one image."""
        side = self.stride * self.patch
        return (self.height // side) * (self.width // side)

    @property
    def latent_bytes(self) -> int:
        """Bytes of one image's stored latents, two per value."""
        return 2 * self.channels * (self.height // self.stride) * (self.width // self.stride)


def image_size(recipe: Recipe) -> tuple[int, int]:
    """Return height and width of the teacher's images, px."""
    if recipe.synthesis.teacher == "scene":
        return recipe.world.image_size, recipe.world.image_size
    section = getattr(recipe.synthesis, recipe.synthesis.teacher)
    side = getattr(section, "size", None) or DEFAULT_SIDE
    return getattr(section, "height", None) or side, getattr(section, "width", None) or side


def token_sizes(recipe: Recipe) -> dict[int | None, Size]:
    """Return the tokenized image sizes by the recipe's name (None: unresized)."""
    tokens, (height, width) = recipe.tokens, image_size(recipe)
    channels = recipe.pretrain.model.token_width // tokens.patch**2
    sides: dict[int | None, tuple[int, int]] = {size: (size, size) for size in tokens.sizes} or {None: (height, width)}
    return {name: Size(*side, channels, codec_stride(tokens.codec), tokens.patch) for name, side in sides.items()}


def codec_stride(reference: str) -> int:
    """Return the codec's stride, px per latent. Raises UnknownModelSize if it is neither here nor known."""
    config = _config(reference, "config.json")
    if stages := config.get("block_out_channels") or config.get("encoder_block_out_channels"):
        return 2 ** (len(stages) - 1)
    if (model := known_model(reference)) and model.stride:
        return model.stride
    raise UnknownModelSize(
        f"the stride of {reference} is not known before it is here; download it first, for example with "
        f"`hf download {parse_model_ref(reference).repository}`"
    )


def embedding_width(reference: str) -> int | None:
    """Return the width of a CLIP embedding; None if unknown until downloaded."""
    if width := _config(reference, "open_clip_config.json").get("model_cfg", {}).get("embed_dim"):
        return int(width)
    package = importlib.util.find_spec("open_clip")
    for name in (parse_model_ref(reference).repository.rpartition("/")[2], reference.partition("/")[0]):
        file = Path(package.origin).parent / "model_configs" / f"{name}.json" if package and package.origin else None
        if file and file.is_file():
            return int(json.loads(file.read_text())["embed_dim"])
    return None


def _config(reference: str, name: str) -> dict[str, Any]:
    """Return a model's configuration; empty if it is not on this machine."""
    folder = parse_model_ref(reference).here()
    return json.loads((folder / name).read_text()) if folder and (folder / name).is_file() else {}
