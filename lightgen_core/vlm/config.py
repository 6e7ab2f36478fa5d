"""Configuration of vision-language models. Imports no torch."""

import json
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from lightgen_core.captioning.config import check_names
from lightgen_core.config import Positive, Section

JUDGE_PROMPT = (
    "How well does this picture show the caption, and how well is it made? Answer with one number from {lowest} (not "
    "at all) to {highest} (perfectly), and nothing else.\nCaption: {caption}"
)


class EndpointModel(Section):
    """A vision-language model behind an OpenAI-compatible endpoint; see settings LIGHTGEN_VLM_*."""

    model: str = Field(description="name of the model on the server")
    temperature: float = Field(0.0, ge=0, description="of sampling; 0: always the likeliest token")
    max_new_tokens: Positive = Field(16, description="longest answer, tokens")
    max_image_side: Positive = Field(1024, description="larger images are sent with this longest side, px")
    request: dict[str, Any] = Field(
        {}, description="further fields of each request; null takes a field away, for servers that refuse it"
    )

    @field_validator("request")
    @classmethod
    def _request_is_json(cls, request: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(request, allow_nan=False)
        except TypeError as error:
            raise ValueError(f"{error}; put it in quotes") from error
        return request


class QuestionConfig(EndpointModel):
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
        """All that decides its answers, as JSON; the threshold does not."""
        return json.dumps(self.model_dump(mode="json", exclude={"min_score"}), sort_keys=True)
