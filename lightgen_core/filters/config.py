"""Configuration of the image filters. Imports no torch."""

from collections import Counter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from lightgen_core.config import Section
from lightgen_core.vlm.config import JudgeConfig


class EmbeddingHeadConfig(Section):
    """A head on unit CLIP embeddings that scores images, such as an aesthetic or a safety predictor."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9 _-]*$", description="of what it measures, such as aesthetic; part of the drop's reason"
    )
    weights: str = Field(
        description="safetensors file of linear layers; see docs/filters.md; its content enters the key"
    )
    activation: Literal["none", "relu", "gelu"] = Field(
        "none", description="between the layers; none: as LAION's aesthetic predictor"
    )
    output: Literal["identity", "sigmoid"] = Field("identity", description="sigmoid: the score is a probability")


class HeadFilter(EmbeddingHeadConfig):
    """A head whose scores drop images."""

    min: float | None = Field(None, description="score below which an image is dropped; none: no such rule")
    max: float | None = Field(None, description="score above which an image is dropped; none: no such rule")

    @model_validator(mode="after")
    def _some_image_passes(self) -> "HeadFilter":
        if self.min is None and self.max is None:
            raise ValueError(f"head {self.name} has neither min nor max, so it drops nothing; give one, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"head {self.name}: min {self.min:g} exceeds max {self.max:g}, so no image passes")
        return self


class ImageFilters(Section):
    """Filters of images; the first that an image fails is the reason for its drop.

    Their order is that of the fields, with the rules on the text-image score before the heads.
    """

    min_side: int | None = Field(None, ge=1, description="shorter side below which an image is dropped, px")
    max_aspect: float | None = Field(None, ge=1, description="longer over shorter side above which an image is dropped")
    min_sharpness: float | None = Field(
        None,
        gt=0,
        description="variance of the luminance's Laplacian below which an image is dropped as blurred; see "
        "docs/filters.md",
    )
    min_entropy: float | None = Field(
        None, gt=0, le=8, description="entropy of the luminance's histogram below which an image is dropped, bits"
    )
    heads: tuple[HeadFilter, ...] = Field((), description="heads on the embeddings of embeddings.model")
    judge: JudgeConfig | None = Field(
        None, description="vision-language model that scores the images that pass all of the above; none: no judge"
    )

    @field_validator("heads")
    @classmethod
    def _heads_differ_in_name(cls, heads: tuple[HeadFilter, ...]) -> tuple[HeadFilter, ...]:
        if repeated := [name for name, count in Counter(head.name for head in heads).items() if count > 1]:
            raise ValueError(f"two heads are called {repeated[0]}; a reason has to name one of them")
        return heads

    @property
    def measures_pixels(self) -> bool:
        """True if images have to be decoded."""
        return any(
            value is not None for value in (self.min_side, self.max_aspect, self.min_sharpness, self.min_entropy)
        )
