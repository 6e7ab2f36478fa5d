"""Sources of captions and images in a recipe: one, or several by weight."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from lightgen_core.captioning.config import CaptionFile, LLMConfig
from lightgen_core.config import Section
from lightgen_core.teachers.config import DiffusersConfig, ImageEndpointConfig, ImageSetConfig

NAME = r"^[a-z0-9][a-z0-9._-]*$"
_NAME_DESCRIPTION = "its name in tables, in training's weights and in the report; part of the seed of what it makes"


class TeacherSource(Section):
    """A teacher and its section."""

    teacher: Literal["scene", "diffusers", "files", "endpoint"] = Field(
        "scene",
        description="scene: the embedded procedural teacher; diffusers: a text-to-image pipeline; "
        "files: an existing set of images; endpoint: an OpenAI-compatible server, at LIGHTGEN_IMAGES_URL with "
        "LIGHTGEN_IMAGES_KEY",
    )
    diffusers: DiffusersConfig | None = Field(None, description="the pipeline, where the teacher is diffusers")
    files: ImageSetConfig | None = Field(None, description="the set of images, where the teacher is files")
    endpoint: ImageEndpointConfig | None = Field(None, description="what is asked, where the teacher is endpoint")

    @model_validator(mode="after")
    def _teacher_is_described(self) -> "TeacherSource":
        if self.teacher != "scene" and getattr(self, self.teacher) is None:
            needed = {"diffusers": "model", "files": "path", "endpoint": "model"}[self.teacher]
            raise ValueError(
                f"teacher is {self.teacher}, and section synthesis.{self.teacher} is missing; give it, with {needed}"
            )
        return self


class WeightedTeacher(TeacherSource):
    """One of several teachers."""

    name: str = Field(pattern=NAME, description=_NAME_DESCRIPTION)
    weight: float = Field(1.0, ge=0, description="its share of synthesis.count, over the sum of all weights")
    captions: tuple[str, ...] = Field(
        (), description="names of captions.sources whose captions it takes; none: those of all"
    )


class CaptionOrigin(Section):
    """A source of captions and its sections."""

    source: Literal["scene", "file", "llm"] = Field(
        "scene",
        description="scene: the embedded grammar over the world's training meanings; file: captions that exist; llm: a "
        "language model that follows a taxonomy, or rewrites captions of a file",
    )
    file: CaptionFile | None = Field(None, description="source file: the captions; source llm: those to rewrite")
    llm: LLMConfig | None = Field(None, description="source llm: the model and what it is asked")

    @model_validator(mode="after")
    def _source_is_described(self) -> "CaptionOrigin":
        rewrites = self.source == "llm" and self.llm is not None and self.llm.rewrite is not None
        used = {"llm": self.source == "llm", "file": self.source == "file" or rewrites}
        for section, least in (("llm", "model"), ("file", "path")):
            present = getattr(self, section) is not None
            if used[section] and not present:
                why = "captions.llm.rewrite" if rewrites else f"source {self.source}"
                raise ValueError(f"{why} needs a section captions.{section} with {least}")
            if present and not used[section]:
                raise ValueError(f"source {self.source} does not use the section captions.{section}; take it out")
        return self


class WeightedCaptions(CaptionOrigin):
    """One of several sources of captions."""

    name: str = Field(pattern=NAME, description=_NAME_DESCRIPTION)
    weight: float = Field(1.0, ge=0, description="its share of captions.count, over the sum of all weights")


def check_sources(field: str, sources: Sequence[WeightedTeacher | WeightedCaptions]) -> None:
    """Raise ValueError if two sources have one name, or none has a weight."""
    if repeated := [name for name, count in Counter(source.name for source in sources).items() if count > 1]:
        raise ValueError(f"{field}: two are called {repeated[0]}; a row has to name the one that it is of")
    if sources and not any(source.weight for source in sources):
        raise ValueError(f"{field}: all weights are 0; give one a weight above 0")
