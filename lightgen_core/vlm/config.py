"""Configuration of vision-language models. Imports no torch."""

import json
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lightgen_core.captioning.config import AnswerFilters, check_names
from lightgen_core.config import Positive, Section

JUDGE_PROMPT = (
    "How well does this picture show the caption, and how well is it made? Answer with one number from {lowest} (not "
    "at all) to {highest} (perfectly), and nothing else.\nCaption: {caption}"
)
SHORT_PROMPT = "Describe this picture in one short sentence of at most twelve words. Answer with the sentence alone."
LONG_PROMPT = (
    "Describe this picture in two to four sentences: what is shown, where it is, its colours, its style. Answer with "
    "the description alone, in one paragraph."
)


VQASCORE_PROMPT = 'Does this figure show "{caption}"? Please answer yes or no.'
"""The question of VQAScore (Lin et al. 2024, arXiv 2404.01291)."""

_IN_PROCESS = ("backend", "dtype", "batch_size", "top_p")


class VlmConfig(Section):
    """A vision-language model: in this process, or behind an endpoint; see settings LIGHTGEN_VLM_*."""

    backend: Literal["transformers", "endpoint"] = Field(
        "endpoint",
        description="transformers: an image-text-to-text model with a chat template, in this process; endpoint: an "
        "OpenAI-compatible server, at LIGHTGEN_VLM_URL with LIGHTGEN_VLM_KEY",
    )
    model: str = Field(description="transformers: a folder or org/name@revision; endpoint: its name on the server")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="transformers: of the weights")
    batch_size: Positive = Field(8, description="transformers: images at once")
    top_p: float = Field(1.0, gt=0, le=1, description="transformers: share of probability that tokens are sampled from")
    temperature: float = Field(0.0, ge=0, description="of sampling; 0: always the likeliest token")
    max_new_tokens: Positive = Field(16, description="longest answer, tokens")
    max_image_side: Positive = Field(1024, description="larger images are sent with this longest side, px")
    request: dict[str, Any] = Field(
        {}, description="endpoint: further fields of each request; null takes a field away, for servers that refuse it"
    )

    @field_validator("request")
    @classmethod
    def _request_is_json(cls, request: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(request, allow_nan=False)
        except TypeError as error:
            raise ValueError(f"{error}; put it in quotes") from error
        return request

    @model_validator(mode="after")
    def _request_is_for_an_endpoint(self) -> Self:
        if self.request and self.backend == "transformers":
            raise ValueError("request goes with backend endpoint; a model in this process has no request")
        return self

    @property
    def weights(self) -> tuple[str, ...]:
        """Models whose weights it loads here."""
        return (self.model,) if self.backend == "transformers" else ()


class VqaConfig(VlmConfig):
    """A question with the answer yes or no; the score is the probability of yes."""

    prompt: str = Field(VQASCORE_PROMPT, description="what it is asked, with {caption}; the answer must be yes or no")

    @model_validator(mode="after")
    def _prompt_knows_the_caption(self) -> Self:
        check_names(self.prompt, "prompt", ("caption",))
        return self


class QuestionConfig(VlmConfig):
    """A judge of images and captions: what it is asked, and the scale of its answers."""

    prompt: str = Field(JUDGE_PROMPT, description="what it is asked, with {caption}, {lowest} and {highest}")
    lowest: float = Field(0.0, description="worst score that it may give")
    highest: float = Field(10.0, description="best score that it may give")

    @model_validator(mode="after")
    def _prompt_and_scale_are_whole(self) -> Self:
        check_names(self.prompt, "prompt", ("caption", "lowest", "highest"))
        if not self.lowest < self.highest:
            raise ValueError(f"lowest {self.lowest:g} is not below highest {self.highest:g}; give a scale")
        return self


class JudgeConfig(QuestionConfig):
    """A judge, and the score that an image needs."""

    min_score: float = Field(description="score below which an image is dropped")

    @model_validator(mode="after")
    def _threshold_lies_on_the_scale(self) -> "JudgeConfig":
        if not self.lowest < self.min_score <= self.highest:
            raise ValueError(
                f"min_score {self.min_score:g} drops all images or none: the scale goes from {self.lowest:g} to "
                f"{self.highest:g}; give a score above its lowest"
            )
        return self

    @property
    def identity(self) -> str:
        """All that decides its answers but weights, as JSON; the threshold does not."""
        without = {"min_score", *(_IN_PROCESS if self.backend == "endpoint" else ())}
        return json.dumps(self.model_dump(mode="json", exclude=without), sort_keys=True)


class RecaptionConfig(VlmConfig):
    """A vision-language model that writes a short and a long caption for each image."""

    backend: Literal["transformers", "endpoint"] = Field("transformers", description="as of any vision-language model")
    max_new_tokens: Positive = Field(160, description="longest answer, tokens")
    short_prompt: str = Field(SHORT_PROMPT, description="what is asked for the short caption; {caption}: the original")
    long_prompt: str = Field(LONG_PROMPT, description="what is asked for the long caption; {caption}: the original")
    short_filters: AnswerFilters = Field(
        default_factory=lambda: AnswerFilters(min_words=2, max_words=20), description="which answers are short captions"
    )
    long_filters: AnswerFilters = Field(
        default_factory=lambda: AnswerFilters(min_words=8, max_words=200), description="which answers are long captions"
    )

    @model_validator(mode="after")
    def _prompts_know_the_caption(self) -> "RecaptionConfig":
        for field in ("short_prompt", "long_prompt"):
            check_names(getattr(self, field), field, ("caption",))
        return self
