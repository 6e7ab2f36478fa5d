"""Configuration of the scorers of preference pairs. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from lightgen_core.config import Section
from lightgen_core.filters.config import EmbeddingHeadConfig
from lightgen_core.vlm.config import QuestionConfig, VqaConfig

_REQUIRED = {
    "geneval": ("model",),
    "head": ("head",),
    "judge": ("judge",),
    "pickscore": ("model",),
    "vqascore": ("vqa",),
}
_OPTIONAL = {
    "clip": ("model",),
    "geneval": ("color_model",),
    "head": ("model",),
    "ocr": ("language",),
    "pickscore": ("processor",),
}
"""Fields of each kind of scorer."""


class ScorerConfig(Section):
    """A scorer of images and their captions, and its part in the score that pairs are chosen by."""

    kind: Literal["detector", "geneval", "clip", "pickscore", "head", "judge", "vqascore", "ocr"] = Field(
        description="detector: the scene world's, 1 for right and 0 for wrong; "
        "geneval: the same by GenEval's rules, for captions of its form; clip: cosine of image and caption; "
        "pickscore: a CLIPModel of transformers, its cosine times its scale; head: linear layers on the image's CLIP "
        "embedding, such as an aesthetic predictor; judge: the number in a vision-language model's answer; "
        "vqascore: the probability of its yes; ocr: how much of the text that the caption quotes tesseract reads"
    )
    weight: float = Field(1.0, gt=0, description="factor in the sum of several scorers")
    margin: float | None = Field(
        None,
        ge=0,
        description="lead in this score alone that a winner needs beside that in the sum; 0: it may not be worse; "
        "none: the sum alone counts",
    )
    model: str | None = Field(
        None,
        description="clip, head: a CLIP as embeddings.model; none: embeddings.model itself; pickscore: a CLIPModel, as "
        "yuvalkirstain/PickScore_v1@<commit>; geneval: the detector, a Mask2Former of COCO's classes",
    )
    color_model: str | None = Field(
        None, description="geneval: the CLIP that names colours, as embeddings.model; none: embeddings.model itself"
    )
    processor: str | None = Field(
        None, description="pickscore: folder or hub id of its processor; none: beside the model"
    )
    head: EmbeddingHeadConfig | None = Field(None, description="head: its file of weights")
    judge: QuestionConfig | None = Field(None, description="judge: model, question and scale")
    language: str | None = Field(None, description="ocr: tesseract's languages, such as eng or eng+deu; none: eng")
    vqa: VqaConfig | None = Field(None, description="vqascore: model and question")

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "ScorerConfig":
        needed = _REQUIRED.get(self.kind, ())
        allowed = {*needed, *_OPTIONAL.get(self.kind, ())}
        for name in ("model", "color_model", "processor", "head", "judge", "vqa", "language"):
            given = getattr(self, name) is not None
            if given and name not in allowed:
                raise ValueError(f"a scorer of kind {self.kind} takes no {name}; leave it out")
            if not given and name in needed:
                raise ValueError(f"a scorer of kind {self.kind} needs {name}; see docs/preference.md")
        return self

    def models(self, clip: str) -> tuple[str, ...]:
        """Return the frozen models that it loads; clip: the one of those that name none."""
        if self.kind in ("clip", "head"):
            return (self.model or clip,)
        if self.kind == "geneval":
            return (str(self.model), self.color_model or clip)
        if question := self.judge or self.vqa:
            return question.weights
        return (self.model,) if self.model is not None else ()

    @property
    def name(self) -> str:
        """Name in tables and logs."""
        return self.head.name if self.head is not None else self.kind
