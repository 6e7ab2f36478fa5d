"""The recipe: what is made. Its sections are the stages; each section enters the keys of the stages that read it."""

from typing import Literal

from pydantic import Field, model_validator

from lightgen_core.config import (
    DedupConfig,
    DpoConfig,
    Fraction,
    HeadConfig,
    MarConfig,
    Positive,
    SamplerConfig,
    Section,
    TrainConfig,
    World,
)


class Captions(Section):
    """What is said."""

    source: Literal["scene"] = Field(
        "scene", description="scene: the embedded grammar over the world's training meanings"
    )
    count: Positive = Field(
        4000, description="captions wanted after near-duplicates are removed; fewer if the source runs dry"
    )
    near_duplicate: Fraction = Field(
        0.95, description="Jaccard similarity of word shingles above which the later caption is dropped"
    )


class Synthesis(Section):
    """Who draws it."""

    teacher: Literal["scene"] = Field("scene", description="scene: the embedded procedural teacher")
    count: Positive = Field(12000, description="images to make")
    balance: Literal["captions", "topics"] = Field(
        "topics", description="captions: every caption gets equally many images; topics: every topic does"
    )
    shard_size: Positive = Field(2000, description="images of one shard, the unit of work that a kill can lose")


class Embeddings(Section):
    """In which space pictures are compared."""

    model: str = Field("zoo:clip", description="CLIP: zoo:clip, an open_clip model/pretrained tag, or a folder")
    batch_size: Positive = Field(256, description="images embedded at once")


class Tokens(Section):
    """What the student sees of pictures and captions."""

    codec: str = Field("zoo:autoencoder", description="image autoencoder: zoo:autoencoder, a hub id or a folder")
    text_encoder: str = Field("zoo:t5", description="text encoder: zoo:t5, a hub id or a folder")
    max_words: Positive = Field(64, description="longest caption, text tokens; what is beyond is cut")
    patch: Positive = Field(2, description="side of the square of latents that makes one token")
    dtype: Literal["float16", "bfloat16"] = Field(
        "float16", description="number format of stored latents and text states"
    )
    batch_size: Positive = Field(64, description="images encoded at once")


class Pretrain(TrainConfig):
    """The student and its training."""

    model: MarConfig = Field(default_factory=MarConfig, description="the masked autoregressive transformer")
    head: HeadConfig = Field(default_factory=HeadConfig, description="the per-token diffusion head")


class Pairs(Section):
    """What the student should prefer."""

    count: Positive = Field(
        1000, description="captions for which pairs are sought; those without a usable pair give none"
    )
    candidates: int = Field(6, ge=2, description="samples of the student for each caption")
    kind: Literal["teacher", "best_worst", "both"] = Field(
        "both",
        description="the winner: the teacher's image (teacher), a right sample of the student (best_worst), or the "
        "latter where there is one (both); the loser is always a wrong sample",
    )
    shard_size: Positive = Field(200, description="captions of one shard")


class Evaluation(Section):
    """How the students are scored: on captions of held-out meanings only."""

    per_category: Positive = Field(80, description="captions of each category")
    images: Positive = Field(2, description="images for each caption")
    resamples: Positive = Field(2000, description="bootstrap resamples behind an interval, drawn over captions")
    shard_size: Positive = Field(240, description="images of one shard")


class Report(Section):
    """What the page shows."""

    examples: Positive = Field(4, description="sample captions of each category")
    duplicates: int = Field(8, ge=0, description="dropped pictures shown beside the one kept")
    pairs: int = Field(8, ge=0, description="preference pairs shown")


class Recipe(Section):
    """Everything that decides what a run makes. Where it runs is in Settings."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][\w.-]*$", description="name of the recipe, shown in the Prefect UI")
    purpose: str = Field("", description="one line for the report")
    scores_mean_nothing: bool = Field(False, description="true for recipes too small to learn; the report then says so")
    seed: int = Field(0, ge=0, lt=2**31, description="every draw of a run follows from it")
    world: World = Field(default_factory=World)
    captions: Captions = Field(default_factory=Captions)
    synthesis: Synthesis = Field(default_factory=Synthesis)
    embeddings: Embeddings = Field(default_factory=Embeddings)
    dedup: DedupConfig = Field(default_factory=DedupConfig)
    tokens: Tokens = Field(default_factory=Tokens)
    pretrain: Pretrain = Field(default_factory=Pretrain)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig, description="how pairs and evaluation sample")
    pairs: Pairs = Field(default_factory=Pairs)
    dpo: DpoConfig = Field(default_factory=DpoConfig)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    report: Report = Field(default_factory=Report)

    @model_validator(mode="after")
    def _sampler_fits_objective(self) -> "Recipe":
        flow_head, flow_sampler = self.pretrain.head.objective == "flow", self.sampler.head_sampler == "euler"
        if flow_head != flow_sampler:
            raise ValueError(
                f"sampler.head_sampler is {self.sampler.head_sampler} and pretrain.head.objective is "
                f"{self.pretrain.head.objective}: euler goes with flow, ddpm and ddim with ddpm and v"
            )
        return self
