"""The sections of a recipe, with their own checks. Each enters the keys of the stages that read it."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lightgen_core.captioning.config import CaptionEmbedding, Decontamination, PromptRewriting
from lightgen_core.config import Fraction, Positive, Section
from lightgen_core.images.buckets import check_ratios
from lightgen_core.vlm.config import RecaptionConfig
from tasks.config.sources import CaptionOrigin, TeacherSource, WeightedCaptions, WeightedTeacher, check_sources


class Captions(CaptionOrigin):
    """The captions and their source."""

    sources: tuple[WeightedCaptions, ...] = Field(
        (),
        description="several sources by weight, each with a name, instead of source, file and llm of this section",
        exclude_if=lambda sources: not sources,  # keys of recipes with one source stay
    )
    count: Positive = Field(4000, description="captions after deduplication; fewer if the source runs dry")
    near_duplicate: Fraction = Field(0.95, description="word-shingle Jaccard similarity that drops the later caption")
    embedding: CaptionEmbedding | None = Field(None, description="also compare captions and prompts by meaning")
    decontamination: Decontamination = Field(
        default_factory=Decontamination, description="which captions give an evaluation prompt away"
    )

    @model_validator(mode="after")
    def _sources_are_given_once(self) -> "Captions":
        check_sources("sources", self.sources)
        if self.sources and self.source != "scene":
            raise ValueError(
                f"source is {self.source}, and sources are given; make it one of them, and leave source out (where the "
                "recipe extends one that sets it: source: scene, file: null, llm: null)"
            )
        return self

    @property
    def origins(self) -> tuple[CaptionOrigin, ...]:
        """All sources: the listed ones, or this section's only one."""
        return self.sources or (self,)


class Synthesis(TeacherSource):
    """The teacher and its images."""

    teachers: tuple[WeightedTeacher, ...] = Field(
        (),
        description="several teachers by weight, each with a name, instead of the teacher of this section",
        exclude_if=lambda teachers: not teachers,  # keys of recipes with one teacher stay
    )
    recaption: RecaptionConfig | None = Field(
        None,
        description="a vision-language model that writes a short and a long caption for each image, for "
        "pretrain.caption_shares; none: images have the captions that they were made from",
        exclude_if=lambda recaption: recaption is None,  # keys of recipes without stay
    )
    count: Positive = Field(12000, description="images to make; files: at most")
    balance: Literal["captions", "topics"] = Field(
        "topics", description="captions: every caption gets equally many images; topics: every topic does"
    )
    image_format: Literal["png", "webp", "jpeg"] = Field(
        "png",
        description="file format of images that are generated or resized here; those of a set stay as they are. webp "
        "is written in half of png's time or less, and smaller",
    )
    image_quality: int | None = Field(
        None, ge=1, le=100, description="webp: none: lossless, as png is; jpeg: none: 95; less is smaller and coarser"
    )
    shard_size: Positive = Field(2000, description="images of one shard, the unit of work that a kill can lose")

    @model_validator(mode="after")
    def _format_has_a_quality(self) -> "Synthesis":
        if self.image_format == "png" and self.image_quality is not None:
            raise ValueError(f"image_quality {self.image_quality} goes with image_format webp or jpeg; png is lossless")
        return self

    @model_validator(mode="after")
    def _teachers_are_given_once(self) -> "Synthesis":
        check_sources("teachers", self.teachers)
        if self.teachers and self.teacher != "scene":
            raise ValueError(
                f"teacher is {self.teacher}, and teachers are given; make it one of them, and leave teacher out (where "
                "the recipe extends one that sets it: teacher: scene)"
            )
        return self

    @property
    def each(self) -> tuple[TeacherSource, ...]:
        """All teachers: the listed ones, or this section's only one."""
        return self.teachers or (self,)


class Embeddings(Section):
    """The CLIP space that images are compared in."""

    model: str = Field(
        "zoo:clip",
        description="CLIP: zoo:clip, zoo:clip-general, open_clip's MODEL/TAG or MODEL/FILE, a folder, or "
        "org/name@revision; where the teacher is not scene, zoo:clip-general by default",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="number format of its arithmetic")
    batch_size: Positive = Field(256, description="images embedded at once")


class Features(Section):
    """Features of a frozen image encoder for each token, which pre-training may align its states with (`repa`)."""

    model: str = Field(
        description="image encoder: a CLIP, as embeddings.model, or a model of timm, timm:NAME@FILE with a safetensors "
        "file of weights or timm:NAME@revision of the hub, such as timm:vit_base_patch14_dinov2.lvd142m"
    )
    size: Positive | None = Field(
        None, description="a model of timm: side that images are resized to for it, px; none: the model's own"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="number format of its arithmetic")


class Tokens(Section):
    """The encoding of images and captions for the student."""

    renamed: ClassVar = {"max_words": "max_text_tokens"}

    codec: str = Field(
        "zoo:autoencoder",
        description="image autoencoder: zoo:autoencoder, zoo:autoencoder-general, a folder, or org/name@revision; "
        "where the teacher is not scene, zoo:autoencoder-general by default",
    )
    codec_precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="number format of its arithmetic")
    text_encoder: str = Field(
        "zoo:t5",
        description="text encoder: zoo:t5, zoo:minilm, a folder, or org/name@revision; where the teacher is not scene, "
        "zoo:minilm by default",
    )
    text_precision: Literal["fp32", "bf16"] = Field("fp32", description="number format; T5 overflows in fp16")
    text_layer: int = Field(
        -1, description="layer whose states are kept: 0 before the first, -1 after the last with its norm, -2 before it"
    )
    latents: Literal["mean", "moments"] = Field(
        "mean", description="moments: also an AutoencoderKL's standard deviations; each step samples new latents"
    )
    max_text_tokens: Positive = Field(64, description="longest caption, text tokens; what is beyond is cut")
    patch: Positive = Field(2, description="side of the square of latents that makes one token")
    flip: bool = Field(False, description="add each image mirrored, unless its caption names left or right")
    dtype: Literal["float16", "bfloat16"] = Field("float16", description="number format of latents and text states")
    batch_size: Positive = Field(64, description="images encoded at once")
    sizes: tuple[Positive, ...] = Field(
        (), description="sides to which images are cropped and resized, px, ascending; none: images as they are"
    )
    buckets: tuple[str, ...] = Field(
        (),
        description="aspect ratios, width:height, such as '4:3': images are cropped to the nearest one, not to the "
        "square, and resized to about the area of each of sizes; a batch is of one ratio; none: squares",
        exclude_if=lambda ratios: not ratios,  # keys of recipes without buckets stay
    )
    features: Features | None = Field(
        None,
        description="also store features of a frozen image encoder, for pretrain.repa; none: no such column",
        exclude_if=lambda section: section is None,  # keys of recipes without it stay
    )
    pad_text: bool = Field(
        False, description="store max_text_tokens states of each caption, for a student with attend_to_padding"
    )

    @model_validator(mode="after")
    def _sizes_ascend(self) -> "Tokens":
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes: found {list(self.sizes)}; expected ascending sides, each once")
        return self

    @model_validator(mode="after")
    def _buckets_have_sizes(self) -> "Tokens":
        try:
            check_ratios(self.buckets)
        except ValueError as error:
            raise ValueError(f"buckets: {error}") from error
        if self.buckets and not self.sizes:
            raise ValueError(f"buckets {', '.join(self.buckets)} need sizes, whose squares they have the area of")
        return self


class Evaluation(Section):
    """The scoring of students, on captions that training never saw."""

    benchmark: Literal["scene", "geneval", "prompts"] = Field(
        "scene",
        description="scene: held-out captions of the scene world, and its detector; geneval: 553 prompts of GenEval's "
        "form, and a detector of everyday things (GenEval-HF); prompts: images that nobody judges",
    )
    prompts: str | None = Field(
        None,
        description="geneval: path of GenEval's own evaluation_metadata.jsonl; prompts: path of a .txt (one caption a "
        "line) or .jsonl (caption, maybe category); none: prompts of GenEval's form",
    )
    per_category: Positive = Field(100, description="captions of each category, at most; 100 is all of GenEval's")
    images: Positive = Field(4, description="images for each caption")
    detector: str = Field(
        "facebook/mask2former-swin-small-coco-instance",
        description="geneval: what finds the objects, a Mask2Former of COCO's classes by hub id or folder",
    )
    color_model: str = Field("ViT-L-14-quickgelu/openai", description="geneval: CLIP that names an object's colour")
    clip_score: bool = Field(
        True, description="also measure the mean text-image cosine in the space of embeddings.model; no GenEval score"
    )
    checkpoint: Positive | None = Field(
        None,
        description="score the student of this step, one of pretrain.keep_steps, as the pre-trained one; none: the "
        "last",
        exclude_if=lambda step: step is None,
    )
    rewrite: PromptRewriting | None = Field(
        None,
        description="write the prompts out as long captions before they are drawn, for students of such captions; they "
        "are judged by the prompts as they are; none: draw them as they are",
        exclude_if=lambda rewrite: rewrite is None,
    )
    references: str | None = Field(
        None,
        description="set of images of the same captions, as synthesis.files.path; samples are compared with them in "
        "the space of EfficientNet-Lite0: retrieval and Fréchet distance; none: no such comparison",
    )
    resamples: Positive = Field(2000, description="bootstrap resamples behind an interval, drawn over captions")
    shard_size: Positive = Field(240, description="images of one shard")

    @model_validator(mode="after")
    def _prompts_are_used(self) -> "Evaluation":
        if self.benchmark == "scene" and self.prompts:
            raise ValueError(
                f"prompts {self.prompts} go with benchmark geneval or prompts; scene has captions of its own"
            )
        return self


class Report(Section):
    """The contents of the report."""

    examples: Positive = Field(4, description="sample captions of each category")
    duplicates: int = Field(8, ge=0, description="dropped images shown beside the one kept")
    pairs: int = Field(8, ge=0, description="preference pairs shown")
    filtered: int = Field(
        4,
        ge=0,
        description="examples shown for each reason for which an image or a caption was left out",
        exclude_if=lambda count: count == 4,  # keys of recipes that do not set it stay
    )
