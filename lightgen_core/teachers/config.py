"""Configuration of teachers. Imports no torch."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lightgen_core.config import Positive, Section
from lightgen_core.images.config import DataLocation
from lightgen_core.images.sample import CAPTION_FIELDS

Argument = bool | int | float | str
_PIXELS = Field(
    50_000_000, ge=1, le=89_478_485, description="images of more pixels are quarantined before they are decoded"
)
_BYTES = Field(1 << 26, ge=1, description="longest encoded image that is taken, bytes")


class StepCacheConfig(Section):
    """Reuse of a denoising step's blocks in the next, by a cache of diffusers: fewer evaluations, other pixels."""

    method: Literal["first_block", "mag", "taylorseer"] = Field(
        description="first_block: skip the other blocks where the first one's residual hardly changed, for a whole "
        "batch at once (batch_size: 1); mag: where the residual's known magnitudes hardly change; taylorseer: predict "
        "attention between steps that are a fixed interval apart"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        description="first_block: largest relative change of the residual (diffusers: 0.05); mag: largest error added "
        "up over skipped steps (diffusers: 0.06); larger skips more",
    )
    magnitude_ratios: tuple[float, ...] = Field(
        (),
        description="mag: ratio of each step's residual to the one before, as MagCacheConfig(calibrate=True) prints "
        "them, interpolated to the steps; none: those of FLUX.1, for it alone",
    )
    interval: Positive | None = Field(None, description="taylorseer: steps from one computed attention to the next")

    @model_validator(mode="after")
    def _method_has_its_own_fields(self) -> Self:
        needed = "interval" if self.method == "taylorseer" else "threshold"
        if getattr(self, needed) is None:
            raise ValueError(f"{needed} is missing; method {self.method} needs it")
        allowed = {"method", needed, *(["magnitude_ratios"] if self.method == "mag" else [])}
        given = {name for name in type(self).model_fields if getattr(self, name) not in (None, ())}
        if others := sorted(given - allowed):
            raise ValueError(f"method {self.method} takes no {', '.join(others)}; leave it out")
        return self


class QuantizationConfig(Section):
    """Weights of a pipeline in fewer bits, quantized while they are loaded: less memory, other pixels."""

    backend: Literal["torchao", "bitsandbytes"] = Field(description="library that quantizes and multiplies")
    format: Literal["int8", "float8", "float8_dynamic", "nf4"] = Field(
        description="of the linear layers' weights. torchao: int8, float8, or float8_dynamic, which also multiplies in "
        "8 bits, with a scale for each token (GPUs of compute capability 8.9 and more); bitsandbytes: int8, nf4"
    )
    components: tuple[str, ...] = Field(
        ("transformer",), min_length=1, description="models of the pipeline that are quantized, such as text_encoder_2"
    )

    @model_validator(mode="after")
    def _backend_has_the_format(self) -> Self:
        formats = {"torchao": ("int8", "float8", "float8_dynamic"), "bitsandbytes": ("int8", "nf4")}[self.backend]
        if self.format not in formats:
            raise ValueError(f"{self.backend} has no format {self.format}; it has {', '.join(formats)}")
        return self


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
    max_sequence_length: Positive | None = Field(
        None,
        description="text tokens of a prompt, to which many pipelines pad and at which all cut; none: as the pipeline "
        "does, FLUX 512",
        exclude_if=lambda length: length is None,  # keys of recipes without it stay, here and below
    )
    step_cache: StepCacheConfig | None = Field(
        None,
        description="reuse of blocks from one denoising step to the next; none: each step is computed",
        exclude_if=lambda cache: cache is None,
    )
    quantization: QuantizationConfig | None = Field(
        None,
        description="weights in fewer bits; none: all in dtype",
        exclude_if=lambda quantization: quantization is None,
    )
    arguments: dict[str, Argument] = Field(
        default_factory=dict, description="further arguments of the pipeline's call, such as true_cfg_scale"
    )
    batch_size: Positive = Field(4, description="images generated at once; halved when memory runs out")

    @model_validator(mode="after")
    def _cache_decides_for_each_image(self) -> Self:
        if self.step_cache is None:
            return self
        if self.step_cache.method == "first_block" and self.batch_size > 1:
            raise ValueError(
                f"batch_size is {self.batch_size}; step_cache first_block decides for a whole batch, so that an image "
                "would depend on its neighbours: set batch_size 1, or method mag or taylorseer"
            )
        if self.step_cache.method == "mag" and self.steps is None:
            raise ValueError("steps is missing; step_cache mag needs the number of denoising steps")
        return self

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if self.max_sequence_length is not None and "max_sequence_length" in self.arguments:
            raise ValueError("max_sequence_length is given twice; leave it out of arguments")
        return self


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
