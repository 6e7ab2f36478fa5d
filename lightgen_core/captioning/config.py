"""Configuration of captions from files and language models. Imports no torch."""

import json
from collections.abc import Iterable
from string import Formatter
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lightgen_core.config import Fraction, Positive, Section
from lightgen_core.images.config import DataLocation

AXES: dict[str, tuple[str, ...]] = {
    "subject": (
        "a bicycle", "a cat", "two dogs", "an old man", "a child", "a market seller", "a sailing boat", "a steam train",
        "a cup of coffee", "a bowl of fruit", "a mountain", "a waterfall", "a lighthouse", "a wooden chair", "a piano",
        "three birds", "a horse", "a robot", "a castle", "a city street", "a garden", "a bookshelf", "a violin",
        "a vase of flowers",
    ),
    "attribute": (
        "red", "pale blue", "made of glass", "made of wood", "very large", "tiny", "worn with age", "brightly striped",
        "golden", "covered in snow", "wet from the rain", "black and white",
    ),
    "relation": (
        "alone", "next to a table", "in front of a window", "behind a fence", "under a tree", "on top of a wall",
        "to the left of a lamp", "facing the viewer",
    ),
    "setting": (
        "at dawn", "at night under street lamps", "on a beach", "in a forest", "in a kitchen", "in a museum",
        "in a snowy field", "on a plain background", "in a busy square", "in the rain", "in a desert", "by a river",
    ),
    "style": (
        "a photograph", "a close-up photograph", "an oil painting", "a watercolour", "a pencil drawing",
        "a flat illustration", "a 3D rendering", "a film still",
    ),
    "length": (
        "in at most ten words", "in one sentence of about twenty words", "in two or three sentences full of detail",
    ),
}  # fmt: skip
"""Default taxonomy: 24 x 12 x 8 x 12 x 8 x 3, about 660,000 combinations."""

TEMPLATE = (
    "Write a caption of {style}, {length}. Subject: {subject}. Looks: {attribute}. Arrangement: {relation}. "
    "Setting: {setting}. Answer with the caption alone."
)
REWRITE_TEMPLATE = (
    "Rewrite the following caption {length}, for {style}. Keep what is shown. Answer with the new caption alone.\n"
    "Caption: {caption}"
)
PROMPT_TEMPLATE = (
    "Write the following prompt out as a detailed caption of an image, in one paragraph of two to four sentences. Keep "
    "every object, number, colour and position that it names, and add no other objects. Answer with the caption "
    "alone.\nPrompt: {caption}"
)
REFUSALS = (
    "i cannot", "i can't", "i can not", "i'm sorry", "i am sorry", "i'm unable", "i am unable", "i won't", "i will not",
    "as an ai", "as a language model",
)  # fmt: skip


class CaptionFile(DataLocation):
    """Existing captions in a file."""

    path: str = Field(
        description="file, or folder of such files; an address such as s3://bucket/file; or a data set of the Hugging "
        "Face hub, org/name@revision; its content enters the key"
    )
    format: Literal["txt", "jsonl", "csv", "parquet", "arrow", "dataset", "webdataset", "folder"] | None = Field(
        None,
        description="txt: one caption a line; jsonl: one object a line; csv, parquet, arrow: tables; dataset: a split "
        "of a Hugging Face data set; webdataset, folder: the captions of an image set, as synthesis.files; none: what "
        "lies there",
    )
    column: str = Field(
        "caption", description="field or column of the caption; caption: also other usual names, as prompt and text"
    )
    topic_column: str | None = Field(None, description="field or column of the topic; none: all have the same")
    split: str | None = Field(None, description="split of a Hugging Face data set; none: train, or all of another set")
    subset: str | None = Field(None, description="configuration of a Hugging Face data set; none: its default")
    max_characters: Positive = Field(2000, description="longest caption, characters; longer ones are dropped")


class Taxonomy(Section):
    """Topics: each combination takes one value of every axis."""

    axes: dict[str, tuple[str, ...]] = Field(AXES, description="values of each axis; each value is used equally often")
    topic: str = Field("subject", description="the axis whose value becomes the caption's topic")
    template: str = Field(TEMPLATE, description="instruction to the model, with {axis} for a value of that axis")

    @model_validator(mode="after")
    def _axes_can_be_named(self) -> "Taxonomy":
        if empty := [axis for axis, values in self.axes.items() if not values]:
            raise ValueError(f"axes without a value: {', '.join(empty)}; give one each, or leave the axis out")
        if self.topic not in self.axes:
            raise ValueError(f"topic is {self.topic!r}; expected one of the axes: {', '.join(self.axes)}")
        check_names(self.template, "taxonomy.template", self.axes)
        return self


class Rewriting(Section):
    """Rewrites of captions.file in the taxonomy's styles and lengths."""

    share: float = Field(1.0, gt=0, le=1, description="share of instructions that rewrite; the rest are the taxonomy's")
    template: str = Field(
        REWRITE_TEMPLATE,
        description="instruction, with {caption} for the seed caption and {axis} for a value of an axis",
    )


def check_names(template: str, field: str, known: Iterable[str]) -> None:
    """Raise ValueError unless a template of a field is one and names known values only."""
    try:
        names = [name for _, name, *_ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{field}: {error}; write {{{{ and }}}} for braces of the text itself") from error
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{field} names {', '.join(map(repr, unknown))}; expected {', '.join(sorted(known))}")


class AnswerFilters(Section):
    """Filters of a language model's answers."""

    renamed: ClassVar = {"echo_words": "max_echoed_words"}

    min_words: Positive = Field(3, description="shortest caption, words")
    max_words: Positive = Field(120, description="longest caption, words")
    allow_cut: bool = Field(False, description="also take what the token limit cut off in mid-sentence")
    refusals: tuple[str, ...] = Field(REFUSALS, description="beginnings by which a refusal is known, in any case")
    max_echoed_words: int = Field(
        8, ge=0, description="an answer that repeats so many words of the instruction in a row is dropped; 0: none is"
    )


class WriterConfig(Section):
    """A language model that writes captions."""

    backend: Literal["transformers", "endpoint"] = Field(
        "transformers",
        description="transformers: a causal model in this process; endpoint: an OpenAI-compatible server such as vLLM, "
        "at LIGHTGEN_LLM_URL with LIGHTGEN_LLM_KEY",
    )
    model: str = Field(description="transformers: a folder or org/name@revision; endpoint: its name on the server")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="transformers: of the weights")
    batch_size: Positive = Field(32, description="transformers: captions written at once")
    temperature: float = Field(1.0, ge=0, description="of sampling; 0: always the likeliest token")
    top_p: float = Field(0.95, gt=0, le=1, description="share of probability that tokens are sampled from")
    max_new_tokens: Positive = Field(160, description="longest answer, tokens")
    request: dict[str, Any] = Field(
        {}, description="endpoint: further fields of each request; null takes a field away, for servers that refuse it"
    )
    filters: AnswerFilters = Field(default_factory=AnswerFilters, description="which answers are captions")

    @field_validator("request")
    @classmethod
    def _request_is_json(cls, request: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(request, allow_nan=False)
        except TypeError as error:
            raise ValueError(f"{error}; put it in quotes") from error
        return request

    @property
    def weights(self) -> tuple[str, ...]:
        """Models whose weights it loads here."""
        return (self.model,) if self.backend == "transformers" else ()


class LLMConfig(WriterConfig):
    """A language model that writes captions, and its topics."""

    renamed: ClassVar = {"surplus": "oversampling"}

    taxonomy: Taxonomy = Field(default_factory=Taxonomy, description="what captions are about")
    rewrite: Rewriting | None = Field(None, description="rewrite the captions of captions.file too; none: do not")
    oversampling: float = Field(
        1.5, ge=1, description="instructions for each caption wanted: some answers are dropped, some repeat others"
    )
    shard_size: Positive = Field(1000, description="instructions of one shard, the unit of work that a kill can lose")

    @model_validator(mode="after")
    def _rewriting_knows_the_axes(self) -> "LLMConfig":
        if self.rewrite is not None:
            check_names(self.rewrite.template, "rewrite.template", {*self.taxonomy.axes, "caption"})
            if "{caption}" not in self.rewrite.template:
                raise ValueError("rewrite.template does not say {caption}, so the model would not see what to rewrite")
        return self


class PromptRewriting(WriterConfig):
    """A language model that writes prompts out as captions of the kind that a student learned from."""

    temperature: float = Field(0.0, ge=0, description="of sampling; 0: always the likeliest token")
    template: str = Field(PROMPT_TEMPLATE, description="instruction, with {caption} for the prompt")

    @model_validator(mode="after")
    def _template_shows_the_prompt(self) -> "PromptRewriting":
        check_names(self.template, "rewrite.template", ("caption",))
        if "{caption}" not in self.template:
            raise ValueError("rewrite.template does not say {caption}, so the model would not see what to rewrite")
        return self


class CaptionEmbedding(Section):
    """The embedding that compares captions by meaning."""

    model: str = Field("zoo:clip", description="as embeddings.model, or as tokens.text_encoder")
    kind: Literal["clip", "text_encoder"] = Field("clip", description="the text tower, or the mean of the states")
    near_duplicate: Fraction = Field(0.97, description="cosine from which the later caption is dropped")
    evaluation: Fraction = Field(0.95, description="cosine to an evaluation prompt from which a caption is dropped")


class Decontamination(Section):
    """Rules by which a caption contains an evaluation prompt; one equal but for case and punctuation always does."""

    ngram: Positive = Field(8, description="words in a row shared with a prompt; of a shorter prompt all its words")
    least_words: Positive = Field(4, description="shorter prompts are only compared with whole captions, words")
