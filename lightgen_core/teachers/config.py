"""Configuration of teachers. Imports no torch."""

from typing import ClassVar, Literal

from pydantic import Field

from lightgen_core.config import Positive, Section
from lightgen_core.images.config import DataLocation
from lightgen_core.images.sample import CAPTION_FIELDS

Argument = bool | int | float | str
_PIXELS = Field(
    50_000_000, ge=1, le=89_478_485, description="images of more pixels are quarantined before they are decoded"
)
_BYTES = Field(1 << 26, ge=1, description="longest encoded image that is taken, bytes")


class DiffusersConfig(Section):
    """A text-to-image pipeline of diffusers; its defaults apply to fields without a value."""

    renamed: ClassVar = {"guidance": "guidance_scale"}

    model: str = Field(description="a folder that save_pretrained wrote, or org/name@revision; safetensors only")
    variant: str | None = Field(None, description="variant of the weights, such as fp16")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("bfloat16", description="number format of the weights")
    steps: Positive | None = Field(None, description="denoising steps")
    guidance_scale: float | None = Field(None, ge=0, description="classifier-free guidance; none: as the pipeline does")
    height: Positive | None = Field(None, description="px")
    width: Positive | None = Field(None, description="px")
    negative_prompt: str | None = Field(None, description="what not to show; only for pipelines that take one")
    arguments: dict[str, Argument] = Field(
        default_factory=dict, description="further arguments of the pipeline's call, such as true_cfg_scale"
    )
    batch_size: Positive = Field(4, description="images generated at once; halved when memory runs out")


class ImageSetConfig(DataLocation):
    """An existing image set with captions as teacher."""

    path: str = Field(
        description="folder (searched with all folders in it) or file; an address such as s3://bucket/folder; or a "
        "data set of the Hugging Face hub, org/name@revision; see docs/data.md"
    )
    format: Literal["folder", "webdataset", "parquet", "arrow", "jsonl", "csv", "dataset"] | None = Field(
        None,
        description="folder: images with captions beside them or in metadata.*; webdataset: tars; parquet, arrow, "
        "jsonl, csv: rows with an image or its path; dataset: a split of a data set; none: what lies there",
    )
    split: str | None = Field(None, description="split of a Hugging Face data set; none: train, or all of another set")
    subset: str | None = Field(None, description="configuration of a Hugging Face data set; none: its default")
    caption_fields: tuple[str, ...] = Field(
        CAPTION_FIELDS,
        min_length=1,
        description="JSON fields or columns of the caption; the first with a usable one counts",
    )
    image_column: str = Field("image", description="field or column of the image; image: any usual name, as file_name")
    size: Positive | None = Field(
        None, description="side of the center crop to which images are resized, px; none: as they are (tokens.sizes)"
    )
    max_pixels: int = _PIXELS
    max_bytes: int = _BYTES


class ImageEndpointConfig(Section):
    """Requests to an OpenAI-compatible images endpoint; see settings LIGHTGEN_IMAGES_*."""

    model: str = Field(description="name of the model at the endpoint, such as dall-e-3")
    request_size: str | None = Field(
        "1024x1024", pattern=r"^\d+x\d+$", description="size of the request, width x height, px; none: not sent"
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        "b64_json", description="form of the images; none: not sent, for models that refuse the field"
    )
    arguments: dict[str, Argument] = Field(
        default_factory=dict, description="further fields of a request, such as quality or style"
    )
    send_seed: bool = Field(False, description="send each image's seed; OpenAI's own models refuse it")
    size: Positive | None = Field(
        None, description="side of the center crop to which images are resized, px; none: as they are"
    )
    max_pixels: int = _PIXELS
    max_bytes: int = _BYTES
