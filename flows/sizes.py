"""Image, latent, token and embedding sizes of a recipe, without torch."""

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.errors import UnknownModelSize, UserError
from flows.known_models import known_model
from lightgen_core.config import MarConfig, ProjectorConfig
from lightgen_core.encoders.model_ref import TIMM, parse_model_ref
from lightgen_core.images.buckets import bucket_shapes
from tasks.config.recipe import Recipe
from tasks.config.sections import Tokens
from tasks.config.sources import TeacherSource

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
    """Return height and width of the teacher's images, px; of several teachers, those of the largest."""
    return max((_teacher_size(recipe, each) for each in recipe.synthesis.each), key=lambda size: size[0] * size[1])


def _teacher_size(recipe: Recipe, source: TeacherSource) -> tuple[int, int]:
    if source.teacher == "scene":
        return recipe.world.image_size, recipe.world.image_size
    section = getattr(source, source.teacher)
    side = getattr(section, "size", None) or DEFAULT_SIDE
    return getattr(section, "height", None) or side, getattr(section, "width", None) or side


def token_sizes(recipe: Recipe) -> dict[int | None, Size]:
    """Return the tokenized image sizes by the recipe's name (None: unresized); a square stands for its buckets."""
    tokens, (height, width) = recipe.tokens, image_size(recipe)
    given = recipe.pretrain.model.token_width
    channels = given // tokens.patch**2 if given else codec_channels(tokens.codec)
    sides: dict[int | None, tuple[int, int]] = {size: (size, size) for size in tokens.sizes} or {None: (height, width)}
    return {name: Size(*side, channels, codec_stride(tokens.codec), tokens.patch) for name, side in sides.items()}


def bucket_sizes(recipe: Recipe, square: Size) -> list[Size]:
    """Return the sizes of the buckets of about a square's area; the given size itself without buckets.

    Raises:
        ValueError: two ratios have one shape.
    """
    if not recipe.tokens.buckets:
        return [square]
    shapes = bucket_shapes(recipe.tokens.buckets, square.height, square.stride * square.patch)
    return [replace(square, height=height, width=width) for height, width in shapes]


def student_config(recipe: Recipe) -> MarConfig:
    """Return the student's configuration, as far as components that are not here yet leave it open.

    Raises:
        UnknownModelSize: a width follows from a component that is neither here nor known.
        ValueError: the recipe sets another width than its components give, or two buckets have one shape.
    """
    size, given = next(iter(token_sizes(recipe).values())), recipe.pretrain.model
    sides = [side for bucket in bucket_sizes(recipe, size) for side in (bucket.height, bucket.width)]
    side = size.stride * size.patch
    channels = codec_channels(recipe.tokens.codec, default=size.channels)
    return given.resolve(
        token_width=channels * size.patch**2,
        text_width=text_width(recipe.tokens.text_encoder, default=given.text_width),
        position_grid=max(sides) // side,
    )


def check_sizes(recipe: Recipe) -> None:
    """Raise UserError if fields of a recipe contradict its components, as far as these are here or known."""
    _check_encoding(recipe.tokens)
    try:
        feature_channels(recipe)
    except UnknownModelSize:
        pass
    except ValueError as error:
        raise UserError(f"tokens.features: {error}") from error
    try:
        student_config(recipe)
        sizes = list(token_sizes(recipe).values())
        for size in sizes:
            bucket_sizes(recipe, size)
    except UnknownModelSize:
        return
    except ValueError as error:
        raise UserError(str(error)) from error
    stride = sizes[0].stride
    side = stride * recipe.tokens.patch
    stated = [("tokens.sizes", (size.height, size.width)) for size in sizes] if recipe.tokens.sizes else _drawn(recipe)
    for field, (height, width) in stated:
        if height % side or width % side:
            raise UserError(
                f"{field}: an image of {height} x {width} px is not made of whole tokens of {side} px: "
                f"{recipe.tokens.codec} has {stride} px a latent, and tokens.patch is {recipe.tokens.patch}"
            )
    for field, shape in [] if recipe.tokens.sizes else stated[1:]:
        if shape != stated[0][1]:
            (height, width), (other_height, other_width) = stated[0][1], shape
            raise UserError(
                f"{stated[0][0]} gives images of {height} x {width} px, {field} of {other_height} x {other_width} px, "
                "and tokens takes one size: set tokens.sizes, to which images are cropped and resized"
            )


def _drawn(recipe: Recipe) -> list[tuple[str, tuple[int, int]]]:
    """Return the field that sets each teacher's images, and their height and width, px; of others only images tell."""
    drawn = []
    for number, each in enumerate(recipe.synthesis.each):
        section = f"synthesis.teachers.{number}" if recipe.synthesis.teachers else "synthesis"
        if each.teacher == "scene":
            drawn.append(("world.image_size", _teacher_size(recipe, each)))
        elif each.teacher == "diffusers":
            if each.diffusers and each.diffusers.height and each.diffusers.width:  # else the pipeline's own size
                drawn.append((f"{section}.diffusers.height and width", _teacher_size(recipe, each)))
        elif getattr(each, each.teacher).size:
            drawn.append((f"{section}.{each.teacher}.size", _teacher_size(recipe, each)))
    return drawn


def _check_encoding(tokens: Tokens) -> None:
    """Raise UserError if latents or a layer are asked for that codec or text encoder, where they are here, lack."""
    kind = _config(tokens.codec, "config.json").get("_class_name", "AutoencoderKL")
    if tokens.latents == "moments" and kind != "AutoencoderKL":
        raise UserError(
            f"tokens.latents is moments, but tokens.codec {tokens.codec} is an {kind}, which gives one latent and no "
            "standard deviation of it: set latents to mean, or another codec, an AutoencoderKL"
        )
    config = _config(tokens.text_encoder, "config.json")
    config = config.get("text_config", config)
    layers = config.get("num_hidden_layers") or config.get("num_layers")
    if layers and not -layers - 1 <= tokens.text_layer <= layers:
        raise UserError(
            f"tokens.text_layer is {tokens.text_layer}, but tokens.text_encoder {tokens.text_encoder} has {layers} "
            f"layers: states {-layers - 1} to {layers}, where 0 is before the first and -1 after the last"
        )


def codec_channels(reference: str, default: int | None = None) -> int:
    """Return the channels of an autoencoder's latents. Raises UnknownModelSize without a default."""
    facts = known_model(reference)
    if channels := _config(reference, "config.json").get("latent_channels") or (facts and facts.channels) or default:
        return int(channels)
    raise _unknown("number of latent channels", reference)


def text_width(reference: str, default: int | None = None) -> int:
    """Return the width of a text encoder's states. Raises UnknownModelSize without a default."""
    config, facts = _config(reference, "config.json"), known_model(reference)
    if width := config.get("d_model") or config.get("hidden_size") or (facts and facts.text_width) or default:
        return int(width)
    raise _unknown("width", reference)


def _unknown(what: str, reference: str) -> UnknownModelSize:
    return UnknownModelSize(
        f"the {what} of {reference} is not known before it is here; download it first, for example with "
        f"`hf download {parse_model_ref(reference).repository}`"
    )


def codec_stride(reference: str) -> int:
    """Return the codec's stride, px per latent. Raises UnknownModelSize if it is neither here nor known."""
    config = _config(reference, "config.json")
    if stages := config.get("block_out_channels") or config.get("encoder_block_out_channels"):
        return 2 ** (len(stages) - 1)
    if (model := known_model(reference)) and model.stride:
        return model.stride
    raise _unknown("stride", reference)


def feature_channels(recipe: Recipe) -> int:
    """Return the values of a token's features; 0 for a recipe without. Loads timm if they are of a model of it.

    Raises:
        UnknownModelSize: the encoder is neither here nor a model that open_clip or timm describe.
        ModelNotFound: timm has no such model, or it gives no map of features.
    """
    section = recipe.tokens.features
    if section is None:
        return 0
    towers = _config(section.model, "two_towers.json")
    vision = _clip_config(section.model).get("vision_cfg", {})
    trunk = vision.get("timm_model_name") or towers.get("image_tower")
    if section.model.startswith(TIMM) or trunk:
        from lightgen_core.encoders.timm_model import timm_map_channels

        return timm_map_channels(trunk or section.model, section.size)
    if not vision:
        raise _unknown("width", section.model)
    blocks_of_stages = isinstance(vision.get("layers"), list)  # a ResNet
    return int(vision["width"]) * (32 if blocks_of_stages else 1)


def projector_config(recipe: Recipe) -> ProjectorConfig | None:
    """Return the projector of a recipe's alignment, or None. Raises as `student_config` and `feature_channels`."""
    repa = recipe.pretrain.repa
    return None if repa is None else repa.resolve(student_config(recipe), feature_channels(recipe))


def embedding_width(reference: str) -> int | None:
    """Return the width of a CLIP embedding; None if unknown until downloaded."""
    width = _clip_config(reference).get("embed_dim")
    return None if width is None else int(width)


def _clip_config(reference: str) -> dict[str, Any]:
    """Return the configuration of a CLIP, of its folder or as open_clip knows it; empty if neither has it."""
    if config := _config(reference, "open_clip_config.json").get("model_cfg"):
        return config
    package = importlib.util.find_spec("open_clip")
    for name in (parse_model_ref(reference).repository.rpartition("/")[2], reference.partition("/")[0]):
        file = Path(package.origin).parent / "model_configs" / f"{name}.json" if package and package.origin else None
        if file and file.is_file():
            return json.loads(file.read_text())
    return {}


def _config(reference: str, name: str) -> dict[str, Any]:
    """Return a model's configuration; empty if it is not on this machine."""
    folder = parse_model_ref(reference).here()
    return json.loads((folder / name).read_text()) if folder and (folder / name).is_file() else {}
